"""A worker's view of the queue: claim by one rename, finish by moving exactly the claimed file.

Fits the ``WorkerQueue`` port.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress

from swarm.clock import SystemClock
from swarm.core.claim import Claim, Exchanged, Finish, LanesFor
from swarm.core.lanes import lane_of
from swarm.core.pauses import Pauses
from swarm.core.task import Attempt, TaskState, Trail, canonical_model
from swarm.core.worker import WorkerStatus
from swarm.errors import StorageFault
from swarm.filesystem.entries import is_file
from swarm.queue.layout import Layout, TaskName
from swarm.queue.stats.lane_counts import LaneCounts
from swarm.queue.storage.dir_stamp import Occupied
from swarm.queue.storage.files import Storage, storage_faults
from swarm.queue.storage.locks import is_held
from swarm.queue.storage.wakeup import ring
from swarm.queue.stores import registry
from swarm.queue.stores.pauses import PauseBook
from swarm.queue.submit.buckets import returned_bucket
from swarm.queue.worker.claimer import Taken, Taker
from swarm.queue.worker.outcome_writer import Tails
from swarm.queue.worker.transitions import Ended, Ending, Settler

_RECORDING = storage_faults("what ended or was claimed could not be put on record")
_LOOK = storage_faults("cannot look into the queue")


class WorkerFileQueue:
    """One worker's queue. The caller holds the worker's life lock for as long as it uses this."""

    def __init__(self, layout: Layout, storage: Storage, worker: str) -> None:
        self._layout = layout
        self._storage = storage
        self._worker = worker
        self._mine = layout.held_by(worker)
        self._taker = Taker(layout, storage, worker)
        self._settler = Settler(layout, storage)
        self._clock = SystemClock()
        self._blocked = Occupied(layout.blocked)
        self._counts = LaneCounts(layout)
        self._pauses = PauseBook(layout)
        self._cancels = Occupied(layout.cancels)
        self._no_tails = Tails(storage, ())

    @property
    def lost_races(self) -> int:
        """How often another worker was quicker."""
        return self._taker.lost_races

    def claim(self, lanes: Sequence[str]) -> Claim | None:
        """The first claimable task of the first lane that has one; None if none has. Raises ``StorageFault``."""
        got = self.exchange((), lambda taken: () if taken else lanes)
        if got.fault is not None:
            raise got.fault
        return got.claims[0] if got.claims else None

    def finish(self, claim: Claim, state: TaskState, trail: Trail) -> bool:
        """Record the outcome; False: fenced, nothing changed. Raises ``StorageFault``."""
        return self.exchange((Finish(claim, state, trail),), None).done[0]

    def exchange(self, finishes: Sequence[Finish], lanes_for: LanesFor | None) -> Exchanged:
        """Record outcomes and claim what is wanted then, durable together: two flushes, however many there are.

        Raises ``StorageFault`` when that could not be done: say the same finishes again, what was recorded is known again.
        What was claimed goes back before anything else is claimed.
        """
        taken = Taken()
        with _RECORDING:
            endings = [self._ending(finish) for finish in finishes]
            with self._settler.write(endings) if endings else self._no_tails as tails:
                try:
                    if lanes_for is not None:
                        self._taker.take(lanes_for, taken)
                    ended = self._commit(endings, tails, taken)
                except BaseException:
                    self._taker.keep(taken.places)
                    raise
        if finishes:
            self._tell_of(finishes)
        return Exchanged(tuple([e.done for e in ended]), tuple(taken.claims), taken.fault)

    def _commit(self, endings: Sequence[Ending], tails: Tails, taken: Taken) -> Sequence[Ended]:
        """Flush the outcomes' bytes, file them, flush the names: no name may say what its file does not hold yet."""
        if not (endings or taken.claims):
            return ()
        tails.flush()
        ended = self._settler.file(endings, tails)
        if self._storage.full:
            self._flush_names(ended, claimed=bool(taken.places))
        return ended

    def _ending(self, finish: Finish) -> Ending:
        claim, state, trail = finish
        return Ending(claim.path, claim.task.task_id, claim.body_size, state, self._settler.dated(state, trail))

    def _flush_names(self, ended: Sequence[Ended], *, claimed: bool) -> None:
        folders = {e.folder for e in ended if e.folder}
        if claimed:
            folders.add(self._mine)
        self._storage.flush_dir(*folders)

    def _tell_of(self, finishes: Sequence[Finish]) -> None:
        if self._cancels.any():
            for finish in finishes:
                self._forget_cancel(finish.claim)
        if self._blocked.any() or any(finish.claim.task.session is not None for finish in finishes):
            ring(self._layout)  # the brain may have something to let go

    def retry(self, claim: Claim, attempts: Sequence[Attempt], *, delay_s: float, counts: bool) -> bool:
        """Give the task back with its history, at once or after ``delay_s``. False: fenced. Raises ``StorageFault``."""
        retry_at = self._clock.iso(delay_s) if delay_s > 0 else None
        return self._settler.give_back(
            claim.path,
            claim.task,
            claim.body_size,
            Trail(attempts=tuple(attempts), retry_at=retry_at),
            attempt=claim.attempt if counts else claim.attempt - 1,
            delayed=retry_at is not None,
        )

    def release(self, claim: Claim) -> bool:
        """Give the task back untouched and uncounted. False: fenced. Raises ``StorageFault``."""
        return self._settler.give_back(
            claim.path, claim.task, claim.body_size, None, attempt=claim.attempt - 1, delayed=False
        )

    @_LOOK
    def pauses(self) -> Pauses:
        """What people have paused. Raises ``StorageFault``."""
        return self._pauses.read()

    def hold(self, claim: Claim) -> bool:
        """Put a task whose batch is paused into ``blocked``, uncounted. False: fenced.

        Raises ``StorageFault``; it is back in its lane before anything else is claimed then.
        """
        task, attempts = claim.task, claim.attempt - 1
        trail = Trail(attempts=claim.attempts, released=True) if task.depends_on else None
        try:
            return self._settler.give_back(claim.path, task, claim.body_size, trail, attempt=attempts, delayed=True)
        except StorageFault:
            folder = f"{self._layout.lane(lane_of(task))}/{returned_bucket(task.priority)}"
            self._taker.keep({claim.path: (folder, TaskName(task.task_id, attempts))})
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
        """Whether somebody wants this task cancelled."""
        return is_file(self._layout.cancel_mark(claim.task.task_id))

    def _forget_cancel(self, claim: Claim) -> None:
        """A mark that cannot be removed now asks for nothing any more; the outcome stands."""
        with suppress(OSError):
            if self.cancel_requested(claim):
                os.unlink(self._layout.cancel_mark(claim.task.task_id))
