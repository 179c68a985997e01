"""What commands, the Python API and the HTTP server show of a swarm: documents, and the same as lines and tables."""
