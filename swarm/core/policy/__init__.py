"""Decisions of the brain and the worker: retry, slots, retention, restarts. Pure."""
