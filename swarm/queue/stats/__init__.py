"""Counts of the queue, and when they are taken again."""
