"""The Python API: submit, map over an iterable, wait, results as they finish. Use it as ``from swarm import Swarm``."""

from swarm.api.client import Handle, Swarm
from swarm.api.results import Result, Results, Usage

__all__ = ["Handle", "Result", "Results", "Swarm", "Usage"]
