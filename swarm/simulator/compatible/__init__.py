"""The faces that speak OpenAI's API: llama-server, and a server like vLLM."""
