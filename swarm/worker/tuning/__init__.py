"""Slots that choose themselves: requests in flight, and for how many a model is loaded."""
