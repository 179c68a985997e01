"""Servers that speak OpenAI's HTTP API: llama-server, vLLM, SGLang and others."""
