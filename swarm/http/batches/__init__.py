"""OpenAI's files and batches, on top of the queue."""
