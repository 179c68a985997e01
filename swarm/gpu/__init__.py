"""Readers of cards: NVIDIA's through NVML, and simulated ones."""
