"""Which cards a process may read: the running swarm's plan, its environment's, or all."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from swarm.config.settings import Settings
from swarm.core.gpu_reading import GpuReading
from swarm.core.health.visible_gpus import Visibility, needs_cuda_order, visible_cards
from swarm.engines.ollama.server_spec import card_dir
from swarm.gpu.nvml import NvmlReader
from swarm.gpu.simulated import SimulatedReader
from swarm.gpu.timeout_reader import TimeoutReader
from swarm.gpu.visible import VisibleReader, cuda_order
from swarm.supervisor.state import load_plan, load_visibility

LOAD_S, LOOK_S = 30.0, 10.0
"""Without persistence mode whoever looks first, or alone, has the driver loaded: on a large box for many seconds. A start
waits that long; a look less, since a driver that hangs may be what is looked for."""


def gpu_reader(settings: Settings, simulate: int | None = None) -> SimulatedReader | VisibleReader:
    """The cards of the running swarm's plan, or those one may use here; simulated ones where the plan says so."""
    root = Path(settings.queue.root)
    if simulate is None:
        plans = load_plan(root / "workers") or ()
        simulate = sum(len(p.gpus) for p in plans if p.simulated and p.relay is None)
    if simulate:
        dirs = [card_dir(root, f"SIM-GPU-{i}") for i in range(simulate)]
        return SimulatedReader(simulate, settings.sim.vram_mib, dirs)
    recorded = load_visibility(root / "workers")
    if recorded is not None:
        # Whoever looks from another shell sees what the running swarm sees.
        return VisibleReader(machine_reader(), lambda _cards: recorded)
    return visible_reader(settings, LOOK_S)


def visible_reader(settings: Settings, first_s: float = LOAD_S) -> VisibleReader:
    """The cards that the environment of this process leaves: what a start has to choose from."""

    def decide(cards: Sequence[GpuReading]) -> Visibility:
        asked = not settings.gpu.ignore_visible and needs_cuda_order(os.environ, cards)
        order = cuda_order() if asked else None
        return visible_cards(os.environ, cards, ignore=settings.gpu.ignore_visible, cuda_order=order)

    return VisibleReader(machine_reader(first_s), decide)


def machine_reader(first_s: float | None = None) -> TimeoutReader:
    """All cards of this machine, whoever may use them. ``first_s``: how long the driver may take for its first answer."""
    return TimeoutReader(NvmlReader(), first_s=first_s)
