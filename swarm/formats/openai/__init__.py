"""OpenAI batch requests and replies."""
