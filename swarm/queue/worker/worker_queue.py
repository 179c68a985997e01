"""The queue as one worker uses it: transactions, requeues, and what else it reads.

Fits the ``WorkerQueue`` port. In a transaction outcomes are recorded and new tasks claimed, durable together:

* ``finish`` writes an outcome behind the body of its task; ``claim`` renames a waiting task into the worker's directory.
* The commit flushes the outcomes, files them by renames, then flushes the directories: no name may say what its file does
  not hold yet. Two flushes, however many tasks.
* If it fails, nothing counts: the same outcomes may be given again (what was recorded is recognised), and what was claimed
  goes back before anything else is claimed.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

from swarm.clock import now_iso
from swarm.core.lanes import Pauses, lane_of
from swarm.core.task import Attempt, Claim, Finish, TaskError, TaskState, Trail, canonical_model, forgiven
from swarm.core.worker import WorkerStatus
from swarm.errors import StorageFault, TaskInvalid
from swarm.filesystem.entries import Occupied, is_file
from swarm.queue import codec
from swarm.queue.coordination import PauseBook, is_held, wake
from swarm.queue.layout import Layout, TaskName, group_of
from swarm.queue.pending import LaneCounts, returned_bucket
from swarm.queue.storage import Storage, storage_faults
from swarm.queue.stores import registry
from swarm.queue.worker.claimer import LaneClaimer, Origin
from swarm.queue.worker.transitions import Ending, OutcomeWriter, Transitions

_CLAIMING = storage_faults("cannot claim")
_RECORDING = storage_faults("results and claims could not be recorded")
_LOOK = storage_faults("cannot read the queue")


class WorkerTransaction:
    """See the module; ``WorkerFileQueue.transaction`` opens and commits it."""

    def __init__(
        self, worker: str, storage: Storage, claimer: LaneClaimer, transitions: Transitions, writer: OutcomeWriter
    ) -> None:
        self._worker = worker
        self._storage = storage
        self._claimer = claimer
        self._transitions = transitions
        self._writer = writer
        self._written: list[tuple[Ending, bool]] = []
        self.finishes: list[Finish] = []
        self.claims: list[Claim] = []
        self.uncommitted: dict[str, Origin] = {}
        """What was claimed, by its path now, and is not on record."""
        self.recorded: tuple[bool, ...] = ()
        """After the commit, for each finish: whether it is on record. False: fenced, nothing changed."""
        self.fault: StorageFault | None = None
        """Why claiming stopped early; what was recorded and claimed before holds all the same."""

    def finish(self, claim: Claim, state: TaskState, trail: Trail) -> None:
        """Record how a claim ended. Raises ``StorageFault``."""
        with _RECORDING:
            ending = Ending(claim.path, claim.task.task_id, claim.body_size, state, self._transitions.dated(state, trail))
            self._written.append((ending, self._transitions.write(self._writer, ending)))
        self.finishes.append(Finish(claim, state, trail))
        self._claimer.ended(claim.group)

    def claim(self, lanes: Sequence[str], *, spread: bool = False) -> Claim | None:
        """The best task of the first lane that has one; None: none has, or ``fault`` says why none can be claimed.

        ``spread``: see ``LaneClaimer.take``.
        """
        if self.fault is not None:
            return None
        try:
            with _CLAIMING:
                while (taken := self._claimer.take(lanes, spread=spread)) is not None:
                    path, origin = taken
                    self.uncommitted[path] = origin
                    claim = self._open(path, origin.name)
                    if claim is not None:
                        self.claims.append(claim)
                        return claim
                    del self.uncommitted[path]
        except StorageFault as fault:
            self.fault = fault
        return None

    def _open(self, path: str, name: TaskName) -> Claim | None:
        """Read what was claimed, by the name it had; None when it is missing, or no task and goes to ``corrupt``."""
        try:
            parts = codec.read(path)
            if parts.task.task_id != name.task_id:
                raise TaskInvalid(f"its task_id is {parts.task.task_id}, its file is named {name.task_id}")
        except FileNotFoundError:
            return None
        except (TaskInvalid, ValueError) as exc:
            self._storage.quarantine(path, str(exc))
            return None
        except OSError as exc:
            if exc.errno == errno.EIO:
                self._claimer.pass_over(name.task_id)
            raise
        return Claim(
            task=parts.task,
            attempt=name.attempt + 1,
            worker=self._worker,
            path=path,
            body_size=parts.body_size,
            attempts=parts.trail.attempts,
            group=group_of(name.task_id),
        )

    @_RECORDING
    def commit(self) -> None:
        """Make all of it durable. Raises ``StorageFault``."""
        if not (self._written or self.claims):
            return
        self._writer.flush()
        folders = [self._transitions.file(ending, written=written) for ending, written in self._written]
        changed = {folder for folder in folders if folder}
        if self.claims:
            changed.add(self._claimer.folder)
        self._storage.flush(*changed)
        self.recorded = tuple([bool(folder) for folder in folders])
        for claim in self.claims:
            del self.uncommitted[claim.path]


class WorkerFileQueue:
    """One worker's queue. The caller holds the worker's process lock for as long as it uses this."""

    def __init__(self, layout: Layout, storage: Storage, worker: str) -> None:
        self._layout = layout
        self._storage = storage
        self._worker = worker
        self._claimer = LaneClaimer(layout, storage, worker)
        self._transitions = Transitions(layout, storage)
        self._blocked = Occupied(layout.blocked)
        self._counts = LaneCounts(layout)
        self._pauses = PauseBook(layout)
        self._cancels = Occupied(layout.cancels)

    @property
    def lost_races(self) -> int:
        """How often another worker was quicker."""
        return self._claimer.lost_races

    @contextmanager
    def transaction(self) -> Iterator[WorkerTransaction]:
        """Record outcomes and claim within the block; committed at its end. Raises ``StorageFault``: then nothing counts."""
        with OutcomeWriter(self._storage) as writer:
            transaction = WorkerTransaction(self._worker, self._storage, self._claimer, self._transitions, writer)
            try:
                yield transaction
                transaction.commit()
            finally:
                self._claimer.give_back(transaction.uncommitted)
        if transaction.finishes:
            self._notify_of(transaction.finishes)

    def _notify_of(self, finishes: Sequence[Finish]) -> None:
        if self._cancels.any():
            for finish in finishes:
                self._forget_cancel(finish.claim)
                self._forget_requeue(finish.claim)
        if self._blocked.any() or any(finish.claim.task.session is not None for finish in finishes):
            wake(self._layout)  # the brain may have something to release

    def retry(self, claim: Claim, attempts: Sequence[Attempt], *, delay_s: float, counts: bool) -> bool:
        """Requeue the task with its history, at once or after ``delay_s``. False: fenced. Raises ``StorageFault``."""
        retry_at = now_iso(delay_s) if delay_s > 0 else None
        requeued = self._transitions.requeue(
            claim.path,
            claim.task,
            claim.body_size,
            Trail(attempts=tuple(attempts), retry_at=retry_at, released=bool(claim.task.depends_on)),
            attempt=claim.attempt if counts else claim.attempt - 1,
            delayed=retry_at is not None,
        )
        self._forget_requeue(claim)
        return requeued

    def release(self, claim: Claim) -> bool:
        """Requeue the task untouched and uncounted, at an operator's request with all attempts forgiven. False: fenced.

        Raises ``StorageFault``.
        """
        task, trail, attempts = claim.task, None, claim.attempt - 1
        if self.requeue_requested(claim):
            error = TaskError("requeued", "it was stopped and requeued at an operator's request")
            this = Attempt(attempt=claim.attempt, worker=self._worker, ended_at=now_iso(), outcome="forgiven", error=error)
            trail, attempts = Trail(attempts=(*forgiven(claim.attempts), this), released=bool(task.depends_on)), 0
        requeued = self._transitions.requeue(claim.path, task, claim.body_size, trail, attempt=attempts, delayed=False)
        self._forget_requeue(claim)
        return requeued

    @_LOOK
    def pauses(self) -> Pauses:
        """What is paused. Raises ``StorageFault``."""
        return self._pauses.read()

    def hold(self, claim: Claim) -> bool:
        """Put a task whose batch is paused into ``blocked``, uncounted. False: fenced.

        Raises ``StorageFault``; it is back in its lane before anything else is claimed then.
        """
        task, attempts = claim.task, claim.attempt - 1
        trail = Trail(attempts=claim.attempts, released=True) if task.depends_on else None
        try:
            return self._transitions.requeue(claim.path, task, claim.body_size, trail, attempt=attempts, delayed=True)
        except StorageFault:
            bucket = f"{self._layout.lane(lane_of(task))}/{returned_bucket(task.priority)}"
            self._claimer.give_back({claim.path: Origin(bucket, TaskName(task.task_id, attempts))})
            raise

    @_LOOK
    def waiting(self) -> Mapping[str, int]:
        """Waiting tasks per lane; costs what changed since it was asked last. Raises ``StorageFault``."""
        return {lane: found.tasks for lane, found in self._counts.waiting().items()}

    @_LOOK
    def peers(self, model: str) -> tuple[str, ...]:
        """Other living workers that hold this model and take work. Raises ``StorageFault``."""
        return tuple(name for name in registry.names(self._layout) if name != self._worker and self._serves(name, model))

    def _serves(self, name: str, model: str) -> bool:
        beat = registry.read_heartbeat(self._layout, name)
        if beat is None or beat.status not in (WorkerStatus.IDLE, WorkerStatus.BUSY):
            return False
        return beat.model == canonical_model(model) and is_held(self._layout, name)

    def cancel_requested(self, claim: Claim) -> bool:
        """Whether this task is to be cancelled."""
        return is_file(self._layout.cancel_mark(claim.task.task_id))

    def requeue_requested(self, claim: Claim) -> bool:
        """Whether this running task is to be stopped and requeued."""
        return is_file(self._layout.requeue_mark(claim.task.task_id))

    def _forget_requeue(self, claim: Claim) -> None:
        if self._cancels.any():
            with suppress(OSError):
                os.unlink(self._layout.requeue_mark(claim.task.task_id))

    def _forget_cancel(self, claim: Claim) -> None:
        """A mark that cannot be removed now asks for nothing any more; the outcome stands."""
        with suppress(OSError):
            if self.cancel_requested(claim):
                os.unlink(self._layout.cancel_mark(claim.task.task_id))
