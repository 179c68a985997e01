"""Observer and cards, for the brain and for commands that look."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from pathlib import Path

from swarm.brain.observe import Observer
from swarm.clock import SystemClock
from swarm.config.settings import Settings
from swarm.core.gpu import GpuReading
from swarm.core.health.visible_gpus import Visibility, needs_cuda_order, visible_cards
from swarm.core.policy.retry import crash_delay_s
from swarm.core.task import Attempt
from swarm.gpu.nvml import NvmlReader
from swarm.gpu.simulated import SimulatedReader
from swarm.gpu.timeout_reader import PatientReader
from swarm.gpu.visible import VisibleReader, cuda_order
from swarm.ollama.server_spec import card_dir
from swarm.queue.file_queue import FileQueue
from swarm.supervisor.cleanup import end_remains
from swarm.supervisor.state import load_plan, load_visibility


def open_observer(settings: Settings, queue: FileQueue | None = None, *, cards: bool = True) -> Observer:
    """An observer for looks; it moves nothing. It shares the counts of ``queue``, and leaves the cards out if so asked."""
    if queue is None:
        queue = FileQueue(str(Path(settings.queue.root).absolute()), settings.queue.durability)
    view = queue.look_view(lambda attempts: crash_delay_s(attempts, settings=settings.retry, jitter=0.0))
    return Observer(view, gpu_reader(settings) if cards else None, SystemClock(), settings)


def take_back(settings: Settings, worker: str) -> tuple[str, ...] | None:
    """Take back what a dead worker held, under its free life lock; None: it is held. Raises ``StorageFault``."""
    root = str(Path(settings.queue.root).absolute())
    queue = FileQueue(root, settings.queue.durability)

    def rule(attempts: tuple[Attempt, ...]) -> float | None:
        return crash_delay_s(attempts, settings=settings.retry, jitter=random.random())

    return queue.brain_view(rule, lambda name: end_remains(root, name)).recover(worker)


def gpu_reader(settings: Settings, simulate: int | None = None) -> SimulatedReader | VisibleReader:
    """The cards of the running swarm's plan, or those one may use here; simulated ones where the plan says so."""
    root = Path(settings.queue.root).absolute()
    if simulate is None:
        plans = load_plan(root / "workers") or ()
        simulate = sum(len(p.gpus) for p in plans if p.simulated)
    if simulate:
        dirs = [card_dir(root, f"SIM-GPU-{i}") for i in range(simulate)]
        return SimulatedReader(simulate, settings.sim.vram_mib, dirs)
    recorded = load_visibility(root / "workers")
    if recorded is not None:
        # Whoever looks from another shell sees what the running swarm sees.
        return VisibleReader(machine_reader(), lambda _cards: recorded)
    return visible_reader(settings)


def visible_reader(settings: Settings) -> VisibleReader:
    """The cards that the environment of this process leaves: what a start has to choose from."""

    def decide(cards: Sequence[GpuReading]) -> Visibility:
        asked = not settings.gpu.ignore_visible and needs_cuda_order(os.environ, cards)
        order = cuda_order() if asked else None
        return visible_cards(os.environ, cards, ignore=settings.gpu.ignore_visible, cuda_order=order)

    return VisibleReader(machine_reader(), decide)


def machine_reader() -> PatientReader:
    """All cards of this machine, whoever may use them."""
    return PatientReader(NvmlReader())
