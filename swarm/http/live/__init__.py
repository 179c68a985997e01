"""Requests that a client waits for: to a card that holds the model, before batch work."""
