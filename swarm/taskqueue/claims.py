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
from swarm.core.claim import Claim
from swarm.core.lanes import lane_of, parse_lane
from swarm.core.pauses import Pauses
from swarm.core.task import Attempt, TaskState, Trail
from swarm.errors import StorageFault, TaskInvalid
from swarm.taskqueue import codec
from swarm.taskqueue.bell import ring
from swarm.taskqueue.buckets import BucketChooser, list_names, returned_bucket
from swarm.taskqueue.corrupt import set_aside
from swarm.taskqueue.ids import IdMaker
from swarm.taskqueue.lanecursor import LaneCursor
from swarm.taskqueue.layout import Layout, TaskName, task_file
from swarm.taskqueue.lookup import count_lane
from swarm.taskqueue.occupied import Occupied
from swarm.taskqueue.pauses import PauseBook
from swarm.taskqueue.settle import Settler
from swarm.taskqueue.storage import Storage, read_regular, storage_faults

log = logging.getLogger(__name__)


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
        self._pauses = PauseBook(layout)
        self._cancels = Occupied(layout.cancels)
        self._in_hand: dict[str, tuple[str, str, TaskName]] = {}
        self.lost_races = 0
        with storage_faults(f"cannot set up the place of {worker}"):
            storage.make_dir(self._mine)

    def claim(self, lanes: Sequence[str]) -> Claim | None:
        """The first claimable task of the first lane that has one; None if none has. Raises ``StorageFault``."""
        with storage_faults("cannot claim"):
            while (taken := self._take(lanes)) is not None:
                claim = self._make_sure(*taken)
                if claim is not None:
                    return claim
        return None

    def _take(self, lanes: Sequence[str]) -> tuple[str, str, TaskName] | None:
        """Move the first candidate here, unflushed; returns its new path, the bucket it came from and its name there."""
        with self._claiming:
            self._put_back()
            for lane in lanes:
                cursor = self._cursors.get(lane)
                if cursor is None:
                    cursor = self._cursors[lane] = LaneCursor(self._layout.lane(lane))
                taken = self._take_from(cursor)
                if taken is not None:
                    return taken
        return None

    def _take_from(self, cursor: LaneCursor) -> tuple[str, str, TaskName] | None:
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
                self._keep_in_hand(path, bucket, parsed)
                raise
            else:
                return path, bucket, parsed
        return None

    def _make_sure(self, path: str, bucket: str, name: TaskName) -> Claim | None:
        """Flush the claim and read the task; outside the lock, so that several slots share a flush."""
        try:
            self._storage.flush_dir(self._mine)
            return self._open(path, TaskName(name.task_id, name.attempt + 1))
        except FileNotFoundError:
            return None
        except BaseException:
            with self._claiming:
                self._keep_in_hand(path, bucket, name)
            raise

    def _keep_in_hand(self, path: str, folder: str, name: TaskName) -> None:
        lane, _, bucket = folder.removeprefix(f"{self._layout.pending}/").partition("/")
        self._in_hand[path] = (lane, bucket, name)

    def _put_back(self) -> None:
        """What was moved here and could not be flushed or read: nobody works on it, so it must not stay.

        Only a fault of the disk leaves something in hand; the disk has to work again before anything else is claimed.
        """
        for path, (lane, bucket, name) in list(self._in_hand.items()):
            with suppress(FileNotFoundError):  # the fault came before the move
                self._buckets.move_in(path, lane, bucket, *name)
            del self._in_hand[path]

    def _open(self, path: str, name: TaskName) -> Claim | None:
        """Read what was claimed; what is no task goes to ``corrupt`` and None comes back."""
        try:
            parts = codec.parse(read_regular(path, codec.MAX_FILE_BYTES))
            if parts.task.task_id != name.task_id:
                raise TaskInvalid(f"its task_id is {parts.task.task_id}, its file is named {name.task_id}")
        except (TaskInvalid, ValueError) as exc:
            set_aside(self._layout, self._storage, path, str(exc))
            return None
        return Claim(
            task=parts.task,
            attempt=name.attempt,
            worker=self._worker,
            path=path,
            body_size=parts.body_size,
            attempts=parts.trail.attempts,
        )

    def finish(self, claim: Claim, state: TaskState, trail: Trail) -> bool:
        """Record the outcome; False: fenced, nothing changed. Raises ``StorageFault``."""
        done = self._settler.end_dated(claim.path, claim.task, claim.body_size, state, trail)
        self._forget_cancel(claim)
        if done and (claim.task.session is not None or self._blocked.any()):
            ring(self._layout)  # the brain may have something to let go
        return done

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
            place = (lane_of(task), returned_bucket(task.priority), TaskName(task.task_id, attempts))
            with self._claiming:
                self._in_hand[claim.path] = place
            raise

    def waiting(self) -> Mapping[str, int]:
        """Waiting tasks per lane, by listing them all."""
        lanes = (lane for lane in list_names(self._layout.pending) if parse_lane(lane) is not None)
        return {lane: n for lane in lanes if (n := count_lane(self._layout.lane(lane))[0])}

    def cancel_requested(self, claim: Claim) -> bool:
        """Whether somebody wants this task cancelled."""
        return os.access(self._layout.cancel_mark(claim.task.task_id), os.F_OK)

    def _forget_cancel(self, claim: Claim) -> None:
        """A mark that cannot be removed now asks for nothing any more; the outcome stands."""
        with suppress(OSError):
            if self._cancels.any():
                os.unlink(self._layout.cancel_mark(claim.task.task_id))


def due_in_s(retry_at: str | None, now_s: float) -> float | None:
    """Seconds until an ISO time; None without one. An unreadable time is due now."""
    if retry_at is None:
        return None
    try:
        return parse_iso(retry_at) - now_s
    except ValueError:
        return 0.0
