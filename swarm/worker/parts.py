"""What a worker is made of: what it asks of the outside, and the settings it goes by."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from swarm.config.settings import Settings
from swarm.core.task import TaskClass
from swarm.runtime.event_loop import EventLoop
from swarm.runtime.ports import Executor, RequestExecutor, WorkerQueue
from swarm.worker.gpu_checks import CardWatch
from swarm.worker.heartbeat import HeartbeatThread
from swarm.worker.live.live_call import LiveModel
from swarm.worker.server_probe import Prober, ServerProbe
from swarm.worker.tuning.load_slots import LoadSlots


@dataclass(frozen=True, kw_only=True)
class WorkerParts:
    """Shared by the worker's own parts."""

    queue: WorkerQueue
    wake: Callable[[], None]
    """Wakes the work loop, from any thread."""
    executors: Mapping[TaskClass, Executor]
    """Classes with neither are never claimed."""
    requests: Mapping[TaskClass, RequestExecutor] = field(default_factory=dict)
    """Those that run on ``loop``."""
    pack_size: Callable[[], int] = lambda: 1
    """So many embedding tasks share one request now."""
    loop: EventLoop | None = None
    """None: a worker without a model server."""
    beats: HeartbeatThread
    jitter: Callable[[], float]
    """Random numbers in [0, 1)."""
    log: logging.Logger
    settings: Settings
    gpu: str | None = None
    """For attempt records: the card's uuid."""
    place: str = "no GPU, no model server"
    """For the log: ``GPU 1, Ollama port 11437``."""
    probe: ServerProbe | None = None
    """None: a worker without a model server."""
    prober: Prober | None = None
    """None: nothing is found out about a fault, its class alone decides; and a task is the trial of a broken server."""
    live_model: LiveModel | None = None
    """None: a worker without a model server."""
    load_slots: LoadSlots | None = None
    """None: a worker without a model server."""
    cards: CardWatch | None = None
    """None: a worker whose cards are not read."""
