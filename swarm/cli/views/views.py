"""What the commands show, as frozen structs: the shape of their ``--json`` documents. Times ``_s``, memory ``_mib``."""

from __future__ import annotations

from typing import Literal

import msgspec

from swarm.core.explain.tasks import Reason


class _View(msgspec.Struct, frozen=True, kw_only=True):
    """Base of all views: every field is in the JSON, whatever its value."""


class PendingStats(_View, frozen=True, kw_only=True):
    """Tasks that wait for a worker."""

    total: int
    by_class: dict[str, int]
    by_model: dict[str, int]


class QueueStats(_View, frozen=True, kw_only=True):
    """The queue in numbers."""

    pending: PendingStats
    blocked: int
    processing: int
    processing_by_worker: dict[str, int]
    completed: int
    """This and the next two without the loads that the brain inserts."""
    failed: int
    cancelled: int
    corrupt: int
    drop_ins: int
    """Files put into ``pending/`` by hand that the brain has not checked yet."""
    stuck: int
    oldest_pending_s: float | None


class TaskRow(_View, frozen=True, kw_only=True):
    """One task in a listing."""

    task_id: str
    state: str
    attempt: int
    task_class: str | None = None
    model: str | None = None
    name: str = ""
    priority: int | None = None
    worker: str | None = None
    created_at: str | None = None
    completed_at: str | None = None
    simulated: bool = False
    error: str | None = None


class ActiveRow(_View, frozen=True, kw_only=True):
    """One task in a worker's hands."""

    worker: str
    task_id: str
    task_class: str | None
    model: str | None
    name: str
    attempt: int
    phase: str
    progress: int
    elapsed_s: float
    stuck: bool
    worker_alive: bool


class WorkerLine(_View, frozen=True, kw_only=True):
    """One worker."""

    name: str
    state: str
    """The verdict of ``swarm.core.health.liveness``; for a healthy worker its own word (idle, busy, loading)."""
    reason: str
    alive: bool
    model: str | None
    tasks: tuple[str, ...]
    slots_busy: int
    slots: int
    completed: int
    failed: int
    tokens_out: int
    tokens_per_s: float | None
    """Of what it does now, reckoned from what it learned of its model; None while it answers nothing."""
    idle_s: float
    gpus: tuple[int, ...]
    port: int | None
    url: str | None
    adopted: bool
    simulated: bool
    pid: int | None
    started_at: str | None


class CardRow(_View, frozen=True, kw_only=True):
    """One card. None: the driver did not say."""

    index: int
    uuid: str
    name: str
    simulated: bool
    worker: str | None
    model: str | None
    memory_used_mib: int | None
    memory_total_mib: int | None
    utilisation_pct: int | None
    temperature_c: int | None
    power_w: float | None
    fault: str | None


class ModelRow(_View, frozen=True, kw_only=True):
    """One model: where it is, what waits for it, what was learned of it."""

    model: str
    loaded_on: tuple[str, ...]
    waiting: int
    running: int
    completed: int
    failed: int
    size_mib: int | None
    size_vram_mib: int | None
    load_s: float | None
    """Mean seconds per load."""
    task_s: float | None
    """Mean seconds per request."""
    tokens_per_s: float | None
    """Generated tokens per second of one request."""
    installed_on: tuple[str, ...] = ()
    """Living workers whose servers have it on disk."""
    disk_mib: int | None = None


class Alarm(_View, frozen=True, kw_only=True):
    """Something a person should know first, and what to do about it."""

    level: Literal["critical", "warning"]
    text: str
    next: str


class LaneRow(_View, frozen=True, kw_only=True):
    """What waits in one lane."""

    lane: str
    task_class: str
    model: str | None
    waiting: int
    oldest_s: float
    loaded_on: tuple[str, ...]
    """Workers that hold its model."""
    eta_s: float | None
    """Until the last of them is done, by those workers at the speed they learned; None while nobody can tell."""


class Throughput(_View, frozen=True, kw_only=True):
    """What the swarm does at this moment, reckoned from busy slots and learned seconds per task."""

    tasks_per_s: float | None
    tokens_out_per_s: float | None
    eta_s: float | None
    """Until what waits and runs is done; None while nothing runs."""
    completed: int
    """By the workers that live now, in their lives."""


class StatusView(_View, frozen=True, kw_only=True):
    """One screen."""

    root: str
    at: str
    running: bool
    """The brain or a worker lives."""
    brain_alive: bool
    supervisor_alive: bool
    simulated: bool
    alarms: tuple[Alarm, ...]
    cards: tuple[CardRow, ...]
    cards_note: str
    """Which of the machine's cards these are and why, where they are not all."""
    workers: tuple[WorkerLine, ...]
    active: tuple[ActiveRow, ...]
    """What the workers hold."""
    lanes: tuple[LaneRow, ...]
    """What waits, most first."""
    queue: QueueStats
    throughput: Throughput


class Explanation(_View, frozen=True, kw_only=True):
    """Why a task does not run, or a worker idles, and what to do; the most telling reason first."""

    subject: str
    kind: Literal["task", "worker", "model"]
    state: str
    reasons: tuple[Reason, ...]
