"""A simulated model server: a real HTTP program that behaves, and fails, like Ollama, llama-server or vLLM.

Whatever it says is marked: version ``0.0.0-simulated``, ``"simulated": true`` in final objects, texts that begin with
``[simulated]``. Run it as ``python -m swarm.simulator --help``.
"""
