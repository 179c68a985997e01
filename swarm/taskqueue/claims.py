"""A worker's view of the queue: claim by one rename, finish by moving exactly the claimed file.

Fits the ``WorkerQueue`` port.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress

from swarm.clock import SystemClock, parse_iso
from swarm.core.claim import Claim, Exchanged, Finish, LanesFor
from swarm.core.lanes import lane_of
from swarm.core.pauses import Pauses
from swarm.core.task import Attempt, TaskState, Trail
from swarm.errors import StorageFault, TaskInvalid
from swarm.taskqueue import codec
from swarm.taskqueue.bell import ring
from swarm.taskqueue.buckets import BucketChooser, returned_bucket
from swarm.taskqueue.corrupt import set_aside
from swarm.taskqueue.ids import IdMaker
from swarm.taskqueue.lanecounts import LaneCounts
from swarm.taskqueue.lanecursor import LaneCursor
from swarm.taskqueue.layout import Layout, TaskName, task_file
from swarm.taskqueue.occupied import Occupied
from swarm.taskqueue.pauses import PauseBook
from swarm.taskqueue.settle import Ended, Ending, Settler
from swarm.taskqueue.storage import Storage, read_regular, storage_faults

log = logging.getLogger(__name__)

_CLAIMING = storage_faults("cannot claim")
_RECORDING = storage_faults("what ended or was claimed could not be put on record")
_Place = tuple[str, TaskName]
"""The bucket's path and the name a waiting task has there."""


class _Moved:
    """What one exchange has claimed and not flushed yet: where each came from, and the claims."""

    __slots__ = ("claims", "fault", "places")

    def __init__(self) -> None:
        self.places: dict[str, _Place] = {}
        self.claims: list[Claim] = []
        self.fault: StorageFault | None = None


class WorkerFileQueue:
    """One worker's queue. The caller holds the worker's life lock for as long as it uses this."""

    def __init__(self, layout: Layout, storage: Storage, worker: str) -> None:
        self._layout = layout
        self._storage = storage
        self._worker = worker
        self._mine = layout.held_by(worker)
        self._settler = Settler(layout, storage)
        self._clock = SystemClock()
        self._cursors: dict[str, LaneCursor] = {}
        self._claiming = threading.Lock()
        self._buckets = BucketChooser(layout, storage, IdMaker())
        self._blocked = Occupied(layout.blocked)
        self._counts = LaneCounts(layout)
        self._pauses = PauseBook(layout)
        self._cancels = Occupied(layout.cancels)
        self._in_hand: dict[str, _Place] = {}
        self.lost_races = 0
        with storage_faults(f"cannot set up the place of {worker}"):
            storage.make_dir(self._mine)

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
        """Record outcomes and claim what is wanted then, with two flushes in all: the outcomes' bytes, then every name.

        Raises ``StorageFault`` when that could not be done: say the same finishes again, what was recorded is known again.
        What was claimed goes back before anything else is claimed.
        """
        with _RECORDING:
            ended = self._settler.end_all([self._ending(finish) for finish in finishes]) if finishes else ()
        moved = _Moved()
        try:
            if lanes_for is not None:
                self._claim_into(moved, lanes_for)
            if self._storage.full:
                with _RECORDING:
                    self._flush_names(ended, claimed=bool(moved.places))
        except BaseException:
            with self._claiming:
                self._in_hand.update(moved.places)
            raise
        if finishes:
            self._tell_of(finishes)
        return Exchanged(tuple([e.done for e in ended]), tuple(moved.claims), moved.fault)

    def _ending(self, finish: Finish) -> Ending:
        claim, state, trail = finish
        return Ending(claim.path, claim.task.task_id, claim.body_size, state, self._settler.dated(state, trail))

    def _flush_names(self, ended: Sequence[Ended], *, claimed: bool) -> None:
        folders = {e.folder for e in ended if e.folder}
        if claimed:
            folders.add(self._mine)
        self._storage.flush_dir(*folders)

    def _claim_into(self, moved: _Moved, lanes_for: LanesFor) -> None:
        """Claim until enough, unflushed. A fault of the disk ends it; what was claimed before holds all the same."""
        try:
            with _CLAIMING:
                while (lanes := lanes_for(moved.claims)) and (taken := self._take(lanes)) is not None:
                    path, place = taken
                    try:
                        claim = self._open(path, place[1])
                    except FileNotFoundError:
                        continue
                    except BaseException:
                        self._keep_in_hand(path, place)
                        raise
                    if claim is not None:
                        moved.places[path] = place
                        moved.claims.append(claim)
        except StorageFault as fault:
            moved.fault = fault

    def _take(self, lanes: Sequence[str]) -> tuple[str, _Place] | None:
        """Move the first candidate here, unflushed; returns its new path, and where it was."""
        with self._claiming:
            if self._in_hand:
                self._put_back()
            for lane in lanes:
                cursor = self._cursors.get(lane)
                if cursor is None:
                    cursor = self._cursors[lane] = LaneCursor(self._layout.lane(lane))
                taken = self._take_from(cursor)
                if taken is not None:
                    return taken
        return None

    def _take_from(self, cursor: LaneCursor) -> tuple[str, _Place] | None:
        while (candidate := cursor.next()) is not None:
            bucket, name, parsed = candidate
            path = f"{self._mine}/{task_file(parsed.task_id, parsed.attempt + 1)}"
            log.debug("Attempting claim: %s", parsed.task_id)
            try:
                self._storage.claim_move(f"{bucket}/{name}", path)
            except FileNotFoundError:
                cursor.lost()
                self.lost_races += 1
                log.debug("Lost race: %s (claimed by another worker)", parsed.task_id)
            except BaseException:
                self._in_hand[path] = (bucket, parsed)
                raise
            else:
                return path, (bucket, parsed)
        return None

    def _keep_in_hand(self, path: str, place: _Place) -> None:
        with self._claiming:
            self._in_hand[path] = place

    def _put_back(self) -> None:
        """What was moved here and could not be flushed or read: nobody works on it, so it must not stay.

        Only a fault of the disk leaves something in hand; the disk has to work again before anything else is claimed.
        """
        for path, (folder, name) in list(self._in_hand.items()):
            lane, _, bucket = folder.removeprefix(f"{self._layout.pending}/").partition("/")
            with suppress(FileNotFoundError):  # the fault came before the move
                self._buckets.move_in(path, lane, bucket, *name)
            del self._in_hand[path]

    def _open(self, path: str, name: TaskName) -> Claim | None:
        """Read what was claimed, by the name it had; what is no task goes to ``corrupt`` and None comes back."""
        try:
            parts = codec.parse(read_regular(path, codec.MAX_FILE_BYTES))
            if parts.task.task_id != name.task_id:
                raise TaskInvalid(f"its task_id is {parts.task.task_id}, its file is named {name.task_id}")
        except (TaskInvalid, ValueError) as exc:
            set_aside(self._layout, self._storage, path, str(exc))
            return None
        return Claim(
            task=parts.task,
            attempt=name.attempt + 1,
            worker=self._worker,
            path=path,
            body_size=parts.body_size,
            attempts=parts.trail.attempts,
        )

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

    def pauses(self) -> Pauses:
        """What people have paused."""
        return self._pauses.read()

    def hold(self, claim: Claim) -> bool:
        """Put a task whose batch is paused into ``blocked``, uncounted. False: fenced.

        Raises ``StorageFault``; it is back in its lane before anything else is claimed then.
        """
        task, attempts = claim.task, claim.attempt - 1
        try:
            return self._settler.give_back(claim.path, task, claim.body_size, None, attempt=attempts, delayed=True)
        except StorageFault:
            folder = f"{self._layout.lane(lane_of(task))}/{returned_bucket(task.priority)}"
            self._keep_in_hand(claim.path, (folder, TaskName(task.task_id, attempts)))
            raise

    def waiting(self) -> Mapping[str, int]:
        """Waiting tasks per lane; costs what changed since it was asked last."""
        return {lane: found.tasks for lane, found in self._counts.waiting().items()}

    def cancel_requested(self, claim: Claim) -> bool:
        """Whether somebody wants this task cancelled."""
        return os.access(self._layout.cancel_mark(claim.task.task_id), os.F_OK)

    def _forget_cancel(self, claim: Claim) -> None:
        """A mark that cannot be removed now asks for nothing any more; the outcome stands."""
        with suppress(OSError):
            os.unlink(self._layout.cancel_mark(claim.task.task_id))


def due_in_s(retry_at: str | None, now_s: float) -> float | None:
    """Seconds until an ISO time; None without one. An unreadable time is due now."""
    if retry_at is None:
        return None
    try:
        return parse_iso(retry_at) - now_s
    except ValueError:
        return 0.0
