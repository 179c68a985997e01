"""A simulated Ollama: a real HTTP program with the manners and the bad manners of the real one, and no model.

Whatever it says is marked: version ``0.0.0-simulated``, ``"simulated": true`` in final objects, texts that begin with
``[simulated]``. Run it as ``python -m swarm.simulator --help``.
"""

from __future__ import annotations

from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run one simulated server until it is told to stop; returns its exit status."""
    from swarm.simulator.program import run  # noqa: PLC0415 - importing the package must stay cheap

    return run(argv)
