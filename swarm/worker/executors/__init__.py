"""Engines: what runs work that is no request to a model server."""
