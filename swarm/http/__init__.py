"""The HTTP server: OpenAI's and Ollama's APIs, files and batches, the swarm's own API and the page."""
