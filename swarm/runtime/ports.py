"""The ports: Protocols of what the running processes ask of the outside.

Adapters fit by shape; they import neither this module nor one another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from swarm.core.faults import CancelToken, Progress
from swarm.core.gpu_reading import GpuReading
from swarm.core.health.visible_gpus import Visibility
from swarm.core.lanes import Pauses
from swarm.core.models.model_server import Limits, LoadedModel, LoadOrder, ModelDetails, OnPiece, Reply
from swarm.core.policy.slot_capacity import SlotRecord
from swarm.core.snapshot import SwarmSnapshot
from swarm.core.task import Attempt, Claim, Endpoint, TaskState, Trail
from swarm.core.worker import Heartbeat
from swarm.errors import StorageFault


class Clock(Protocol):
    """Time. Decisions use ``mono_s``; ``iso`` is for readers and documents."""

    def mono_s(self) -> float:
        """Monotonic seconds."""
        ...

    def iso(self, offset_s: float = 0.0) -> str:
        """Now (plus an offset) in ISO 8601 with milliseconds and zone offset."""
        ...


class QueueTransaction(Protocol):
    """What a worker does to the queue at once."""

    @property
    def recorded(self) -> tuple[bool, ...]:
        """After the block, for each finish: whether it is on record. False: fenced, nothing changed."""
        ...

    @property
    def fault(self) -> StorageFault | None:
        """Why claiming stopped early; what was recorded and claimed before holds all the same."""
        ...

    def finish(self, claim: Claim, state: TaskState, trail: Trail) -> None:
        """Write the outcome and move the claimed file to completed, failed or cancelled. Raises ``StorageFault``.

        One whose file is gone is fenced and changes nothing.
        """
        ...

    def claim(self, lanes: Sequence[str], *, spread: bool = False) -> Claim | None:
        """Take the best waiting task of the first lane that has one; None: none has, or see ``fault``.

        One rename into ``processing/<worker>/``; its attempt is counted by it. ``spread``: the server has a slot for each
        request, so each slot goes on with its own prefix group.
        """
        ...


class WorkerQueue(Protocol):
    """The queue as one worker sees it. Calls are safe from several threads of that worker."""

    @property
    def lost_races(self) -> int:
        """How often another worker was quicker, so far."""
        ...

    def transaction(self) -> AbstractContextManager[QueueTransaction]:
        """Put outcomes on record and claim within the block; all of it shares the flushes at its end.

        Raises ``StorageFault`` when the disk refuses: nothing is claimed then, and the same finishes may be said again.
        """
        ...

    def retry(self, claim: Claim, attempts: Sequence[Attempt], *, delay_s: float, counts: bool) -> bool:
        """Requeue the task for another attempt, with its history: at once, or from ``blocked`` after ``delay_s``.

        ``counts`` False: this attempt is not counted (infra faults). False: fenced.
        """
        ...

    def pauses(self) -> Pauses:
        """What operators have paused (cheap: one ``stat`` call). Raises ``StorageFault``."""
        ...

    def hold(self, claim: Claim) -> bool:
        """Put a task whose batch is paused into ``blocked``, untouched and uncounted. False: fenced."""
        ...

    def release(self, claim: Claim) -> bool:
        """Requeue the task untouched, the attempt not counted (drain, stop). False: fenced."""
        ...

    def waiting(self) -> Mapping[str, int]:
        """Waiting tasks per lane, for log lines; not on the hot path. Raises ``StorageFault``."""
        ...

    def peers(self, model: str) -> tuple[str, ...]:
        """Other living workers that hold this model and take work, by their heartbeats; not on the hot path.

        Raises ``StorageFault``.
        """
        ...

    def cancel_requested(self, claim: Claim) -> bool:
        """Whether this running task is to be cancelled (cheap: one ``access`` call)."""
        ...

    def requeue_requested(self, claim: Claim) -> bool:
        """Whether this running task is to be stopped and released (as cheap)."""
        ...


class BrainQueue(Protocol):
    """The queue as the brain sees it."""

    def look(self, old_after_s: float | None = None) -> SwarmSnapshot:
        """What there is, at the cost of what changed since the last call. Ages, cards and times are left out.

        With ``old_after_s`` also what lies finished, one bounded step further each time. Raises ``StorageFault``.
        """
        ...

    def file_drop_in(self, file_name: str) -> str:
        """Check one drop-in and move it on. Returns a line for the log: where it went, or why it is corrupt."""
        ...

    def recover(self, worker: str) -> tuple[str, ...] | None:
        """Reclaim all that a dead worker held. One log line per task; None: its lock is held, so it lives."""
        ...

    def enqueue(self, document: Mapping[str, Any]) -> str:
        """Accept one task; returns its id. Raises ``DuplicateTask``, ``TaskInvalid``, ``StorageFault``."""
        ...

    def withdraw(self, task_id: str, reason: str) -> bool:
        """Move a pending or blocked task to ``cancelled``. False: it was not there any more."""
        ...

    def release_blocked(self, task_id: str, attempt: int) -> bool:
        """Move a blocked task to its lane. False: it was not there any more."""
        ...

    def fail_blocked(self, task_id: str, attempt: int, reason: str) -> bool:
        """Move a blocked task to ``failed``. False: it was not there any more."""
        ...

    def expand_map(self, task_id: str, attempt: int) -> str | None:
        """Make the children of a blocked map task. A line for the log; None: it was not there any more."""
        ...

    def gather_map(self, task_id: str, attempt: int) -> str | None:
        """Complete a map task whose children have ended. A line for the log; None: it was not there any more."""
        ...

    def cancel_children(self, task_id: str) -> int:
        """Cancel some of what has not ended of such a task's children; how many."""
        ...

    def stop_batch(self, batch_id: str, reason: str) -> int:
        """Cancel some of what waits of a batch; how many."""
        ...

    def purge(self, state: TaskState, shard: str, *, older_than_s: float, limit: int) -> int:
        """Remove finished documents of one shard that ended longer ago; how many. Keeps what waiting tasks depend on."""
        ...

    def purge_batches(self, *, older_than_s: float) -> tuple[str, ...]:
        """Go a step on in removing the files of batches of which nothing is left; ids of those removed now."""
        ...


class HeartbeatSink(Protocol):
    """Where heartbeats go."""

    def beat(self, heartbeat: Heartbeat) -> None:
        """Replace the heartbeat file. Raises ``StorageFault``; a worker that cannot beat is not dead."""
        ...


class SlotMemory(Protocol):
    """What this worker's card has shown for its models, over its lives. Thread-safe."""

    @property
    def records(self) -> Sequence[SlotRecord]:
        """All that is known."""
        ...

    def keep(self, record: SlotRecord) -> None:
        """Remember this instead of what was known of the same card, engine, model and length. Never raises."""
        ...


class GpuReader(Protocol):
    """Reads cards."""

    def read(self) -> tuple[GpuReading, ...]:
        """All cards now. Never raises for a lost card: that is a reading with ``fault``."""
        ...


class ChosenCards(GpuReader, Protocol):
    """Reads the cards that this swarm may use."""

    @property
    def visibility(self) -> Visibility:
        """Which of the machine's cards they are, and why; known once they were read."""
        ...


class ModelServer(Protocol):
    """One model server. Every call is bounded and raises ``TaskFault``."""

    async def run(
        self,
        endpoint: Endpoint,
        body: Mapping[str, Any],
        *,
        limits: Limits,
        progress: Progress | None,
        marker: str | None,
        on_piece: OnPiece | None = None,
    ) -> Reply:
        """One request, in Ollama's form whatever the engine; cancelling the awaiting task hangs up.

        ``marker`` tells the server's log which task it is. All calls are made on one event loop.
        What ``on_piece`` is called with is whole with ``Reply.last``; it must not raise.
        """
        ...

    def load(self, order: LoadOrder, *, timeout_s: float, cancel: CancelToken | None) -> object:
        """Preload for so many requests at once (0: the server decides); returns once the server says that it is ready."""
        ...

    def unload(self, model: str, timeout_s: float) -> None:
        """Unload a model; it goes when its requests have ended."""
        ...

    def ps(self, timeout_s: float) -> Sequence[LoadedModel]:
        """The models loaded now."""
        ...

    def show(self, model: str, timeout_s: float) -> ModelDetails:
        """About a model on its disk. Kind ``model_missing`` if it is not there."""
        ...


class RequestExecutor(Protocol):
    """Runs attempts that only wait for a model server, by the hundred on one event loop."""

    async def run(self, claim: Claim, *, progress: Progress) -> Trail:
        """Ask the server; return a trail with ``result`` (and ``simulated``). Raises ``TaskFault``.

        The attempt is stopped by cancelling the awaiting task.
        """
        ...


class Executor(Protocol):
    """Runs one attempt of one class of task, in a thread of its own."""

    def run(self, claim: Claim, *, cancel: CancelToken, progress: Progress) -> Trail:
        """Do the work; return a trail with ``result`` (and ``simulated``). Raises ``TaskFault``."""
        ...
