"""Gathers the evidence that ``swarm doctor`` judges."""
