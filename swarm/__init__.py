"""Batches of prompts through local models: one worker and one model server per GPU.

``from swarm import Swarm`` is the whole Python API; see docs/python-api.md.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from swarm.api import Handle, Result, Results, Swarm, Usage

__version__ = "0.1.0"
__all__ = ["Handle", "Result", "Results", "Swarm", "Usage", "__version__"]


def __getattr__(name: str) -> object:
    """Load the API when it is first asked for, so that a quick command does not pay for it."""
    if name in __all__:
        return getattr(import_module("swarm.api"), name)
    raise AttributeError(f"module 'swarm' has no attribute {name!r}")
