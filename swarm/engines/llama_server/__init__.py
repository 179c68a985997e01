"""llama-server, of llama.cpp: one process for each loaded model."""
