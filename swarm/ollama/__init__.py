"""Ollama: the client a worker speaks through, and (in ``sim``) a simulated server that behaves like the real one."""
