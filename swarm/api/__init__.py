"""The Python API: submit tasks, map over an iterable, wait, iterate over results.

Use it as ``from swarm import Swarm``.
"""

from swarm.api.client import Handle, Swarm
from swarm.api.results import Result, Results, Usage

__all__ = ["Handle", "Result", "Results", "Swarm", "Usage"]
