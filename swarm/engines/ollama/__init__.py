"""Ollama: the client for it, and the server processes with their repairs."""
