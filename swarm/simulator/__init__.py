"""A simulated Ollama: a real HTTP program with the manners and the bad manners of the real one, and no model.

Whatever it says is marked: version ``0.0.0-simulated``, ``"simulated": true`` in final objects, texts that begin with
``[simulated]``. Run it as ``python -m swarm.simulator --help``.
"""
