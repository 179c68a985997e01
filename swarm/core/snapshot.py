"""The immutable snapshot on which the brain decides, time and readings of cards included.

A snapshot is stale by nature: whoever applies a decision checks again, and ``Stale`` is an ordinary answer. Any part of a
card's reading may be missing; a lost card is a value, not a crash.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from swarm.core.gpu_reading import GpuReading
from swarm.core.lanes import Pauses
from swarm.core.live.demand import KEPT_S
from swarm.core.task import TaskClass, TaskState
from swarm.core.worker import Heartbeat, WorkerRow


class ResourceTask(msgspec.Struct, frozen=True, kw_only=True):
    """A load or unload that has not ended, as its document describes it."""

    task_id: str
    worker: str
    model: str | None = None
    """Canonical; None where the task names none."""
    epoch: int | None = None
    """The life of the worker that the brain made it for; None: the operator submitted it."""
    live: bool = False
    """Made for live requests."""


class LaneView(msgspec.Struct, frozen=True, kw_only=True):
    """One lane of ``pending/``: tasks that any worker eligible for it may claim."""

    lane: str
    """``llm@<model>``, ``cpu``, ``script`` or ``resource@<worker>``; see ``swarm.core.lanes``."""
    task_class: TaskClass
    model: str | None = None
    """Canonical model name of an llm lane."""
    target_worker: str | None = None
    pending: int = 0
    oldest_wait_s: float = 0.0
    """Age of the oldest waiting task, by the wall clock (for display and warnings), never negative."""
    unserved_s: float = 0.0
    """Since the observer last saw this lane empty or a living worker hold its model, on its monotonic clock."""
    resource_tasks: tuple[ResourceTask, ...] = ()
    """What waits in a resource lane, at most 64 of it."""


class ClaimView(msgspec.Struct, frozen=True, kw_only=True):
    """One file in ``processing/<worker>/``."""

    task_id: str
    attempt: int
    worker: str
    task_class: str | None = None
    """None where its file could not be read."""
    name: str = ""
    model: str | None = None
    """Canonical."""
    elapsed_s: float = 0.0
    """Since the observer first saw this claim, on its monotonic clock."""
    quiet_s: float = 0.0
    """Since the observer last saw its progress change, on its monotonic clock."""
    progress: int = 0


class WorkerView(msgspec.Struct, frozen=True, kw_only=True):
    """A worker as the observer sees it."""

    name: str
    alive: bool
    """Its process lock is held: the kernel vouches for it."""
    row: WorkerRow | None = None
    heartbeat: Heartbeat | None = None
    """The last one of this life; None if it has not beaten yet (a heartbeat of an earlier epoch does not count)."""
    quiet_s: float = 0.0
    """Since the observer last saw the heartbeat number change, on its monotonic clock."""
    turn_quiet_s: float = 0.0
    """The same for the work loop's turn counter."""
    claims: int = 0
    """Files in its processing directory."""
    held_s: float = 0.0
    """Since the observer last saw the model it holds change."""
    load_failed_s: dict[str, float] = msgspec.field(default_factory=dict)
    """For each model this life could not load: since the observer last saw its count of failures change."""

    @property
    def node(self) -> str:
        """The machine of its cards; empty: this one."""
        return self.row.node if self.row is not None else ""


class BlockedView(msgspec.Struct, frozen=True, kw_only=True):
    """One file in ``blocked/`` and what it waits for."""

    task_id: str
    attempt: int
    model: str | None = None
    """Canonical model name of an llm task."""
    resource: ResourceTask | None = None
    """Set for a load or unload that is tried again later."""
    due_in_s: float | None = None
    """Seconds until its not-before or retry time (0 or less: due); None when it waits for no time."""
    waiting_for: tuple[str, ...] = ()
    """Ids of dependencies not yet completed."""
    failed_dependency: str | None = None
    failed_how: str = "failed"
    """In what way it did not complete, and why, to follow its id."""
    session_turn: bool = True
    """No earlier task of its session is unfinished."""
    step: Literal["release", "expand", "gather"] = "release"
    """What is to be done with it once it is due; the others are for a task mapped over a list."""
    batch_paused: str | None = None
    """Its batch, while the operator has paused that."""


class DropIn(msgspec.Struct, frozen=True, kw_only=True):
    """A file put directly into ``pending/``."""

    file_name: str
    quiet_s: float
    """Since it was last written to; a half-copied file is left alone until it is quiet."""


class FinishedShard(msgspec.Struct, frozen=True, kw_only=True):
    """Finished documents that lie together."""

    state: TaskState
    shard: str
    documents: int
    oldest_age_s: float
    """Since the first of them ended, by the wall clock as far as it may be trusted."""


class FinishedView(msgspec.Struct, frozen=True, kw_only=True):
    """Finished documents, as far as known yet; for retention."""

    documents: int = 0
    old: tuple[FinishedShard, ...] = ()
    """Shards that hold something old enough to be removed, the oldest first; not all at once."""
    emptied: bool = False
    """Something was removed since the batches were last looked through for such of which nothing is left."""


class BatchOverLimit(msgspec.Struct, frozen=True, kw_only=True):
    """A batch past its limit of failures, of which something has not ended."""

    batch_id: str
    failed: int
    max_fails: int


class LiveView(msgspec.Struct, frozen=True, kw_only=True):
    """Requests for one model whose clients wait, as the HTTP server says."""

    model: str
    """Canonical."""
    waiting: int = 0
    """Have no worker yet."""
    in_flight: int = 0
    """At workers."""
    oldest_s: float = 0.0
    """Age of the longest waiting one."""
    idle_s: float = 0.0
    """Since the observer first saw neither; 0 while there is one."""
    wanted_s: float = 0.0
    """Since the observer first saw the model wanted; gaps up to ``brain.max_wait_s`` do not count as such."""

    @property
    def keeps(self) -> bool:
        """Whether clients use the model, or did so just now: batch work does not take its last card."""
        return bool(self.waiting or self.in_flight) or self.idle_s < KEPT_S


class SwarmSnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """All the brain knows at one moment. Wall time is for display; all ages are monotonic unless said otherwise."""

    now_iso: str = ""
    mono_s: float = 0.0
    grace: bool = False
    """The observer itself was late (suspend, overload), and not the tick before: no ages are judged in this tick."""
    lanes: tuple[LaneView, ...] = ()
    claims: tuple[ClaimView, ...] = ()
    workers: tuple[WorkerView, ...] = ()
    blocked: tuple[BlockedView, ...] = ()
    """For the brain only those that may go, must fail or come due next; for who explains, all."""
    blocked_total: int = 0
    drop_ins: tuple[DropIn, ...] = ()
    gpus: tuple[GpuReading, ...] = ()
    gpus_note: str = ""
    """Which of the machine's cards these are and why, where they are not all: ``1 of 4 cards: CUDA_VISIBLE_DEVICES=1``."""
    finished: FinishedView = FinishedView()
    """Empty unless the configuration asks for retention, and for observers that only look."""

    over_limit: tuple[BatchOverLimit, ...] = ()
    orphaned: tuple[str, ...] = ()
    """Mapped tasks that were cancelled, of whose children some may not have been."""
    pauses: Pauses = Pauses()
    live: tuple[LiveView, ...] = ()
    """Empty without a living HTTP server."""
    live_written_at: str = ""
    """Changes each time the HTTP server says so."""

    def worker(self, name: str) -> WorkerView | None:
        """The worker of that name, or None."""
        return next((w for w in self.workers if w.name == name), None)

    @property
    def has_work(self) -> bool:
        """Whether any task waits or runs."""
        return bool(self.claims) or any(lane.pending for lane in self.lanes)

    def llm_pending(self) -> dict[str, int]:
        """Waiting llm tasks by canonical model name, none with zero."""
        return {lane.model: lane.pending for lane in self.lanes if lane.model is not None and lane.pending}
