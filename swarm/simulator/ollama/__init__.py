"""The simulated Ollama: its routes, its models on disk and in memory, and their runners."""
