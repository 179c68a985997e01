"""What a worker is made of: its ports, and what it goes by."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from swarm.config.settings import RetrySettings, Settings
from swarm.core.policy.slots import SlotLimits, slot_limits
from swarm.core.task import TaskClass
from swarm.runtime.ports import Bell, Executor, WorkerQueue
from swarm.worker.gpu_checks import CardWatch
from swarm.worker.heartbeat import HeartbeatThread
from swarm.worker.server_probe import Prober, ServerProbe


@dataclass(frozen=True, kw_only=True)
class WorkerPorts:
    """What a worker asks of the outside."""

    queue: WorkerQueue
    bell: Bell
    executors: Mapping[TaskClass, Executor]
    """Classes without one are never claimed."""
    beats: HeartbeatThread
    jitter: Callable[[], float]
    """Random numbers in [0, 1)."""
    log: logging.Logger
    probe: ServerProbe | None = None
    """None: a worker without a model server."""
    prober: Prober | None = None
    """None: nothing is found out about a fault, its class alone decides; and a task is the trial of a broken server."""
    cards: CardWatch | None = None
    """None: a worker whose cards are not read."""


@dataclass(frozen=True, kw_only=True)
class WorkerConfig:
    """What a worker goes by."""

    limits: SlotLimits
    retry: RetrySettings
    poll_s: float
    limit_s: Mapping[TaskClass, float]
    """Seconds one attempt may take, by class, unless the task says otherwise."""
    first_token_s: float = 300.0
    """What a request may take until its first token, a load included."""
    longest_pause_s: float = float("inf")
    """Ticks are never further apart: one whose ticks stand still is taken for hung."""
    gpu: str | None = None
    """For attempt records: the card's uuid."""
    place: str = "no GPU, no model server"
    """For the log: ``GPU 1, Ollama port 11437``."""


def worker_config(settings: Settings, *, gpu: str | None, place: str) -> WorkerConfig:
    """The part of the settings a worker goes by. Loading a model may take as long as a request."""
    return WorkerConfig(
        limits=slot_limits(settings.worker, settings.llm),
        retry=settings.retry,
        poll_s=settings.worker.poll_s,
        first_token_s=settings.llm.first_token_s,
        limit_s={
            TaskClass.LLM: settings.llm.timeout_s,
            TaskClass.RESOURCE: settings.llm.timeout_s,
            TaskClass.CPU: settings.command.timeout_s,
            TaskClass.SCRIPT: settings.command.timeout_s,
        },
        longest_pause_s=settings.worker.heartbeat_stale_s / 2,
        gpu=gpu,
        place=place,
    )
