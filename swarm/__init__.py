"""swarm: batches of prompts through local models, one model server and one worker per GPU, tasks as files."""

__version__ = "0.1.0"
__all__ = ["__version__"]
