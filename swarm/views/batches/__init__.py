"""Batches as documents and lines."""
