"""Live requests at a worker: the socket that takes them, and their places beside batch work."""
