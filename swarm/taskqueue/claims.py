"""A worker's view of the queue: claim by one rename, finish by moving exactly the claimed file.

Fits the ``WorkerQueue`` port.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Mapping, Sequence

from swarm.clock import SystemClock, parse_iso
from swarm.core.claim import Claim
from swarm.core.lanes import parse_lane
from swarm.core.task import Attempt, TaskState, Trail
from swarm.errors import TaskInvalid
from swarm.taskqueue import codec
from swarm.taskqueue.buckets import list_names
from swarm.taskqueue.corrupt import set_aside
from swarm.taskqueue.lanecursor import LaneCursor
from swarm.taskqueue.layout import Layout, TaskName, task_file
from swarm.taskqueue.lookup import count_lane
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
        self.lost_races = 0
        storage.make_dir(self._mine)

    def claim(self, lanes: Sequence[str]) -> Claim | None:
        """The first claimable task of the first lane that has one; None if none has. Raises ``StorageFault``."""
        with self._claiming, storage_faults("cannot claim"):
            for lane in lanes:
                cursor = self._cursors.get(lane)
                if cursor is None:
                    cursor = self._cursors[lane] = LaneCursor(self._layout.lane(lane))
                claim = self._claim_from(cursor)
                if claim is not None:
                    return claim
        return None

    def _claim_from(self, cursor: LaneCursor) -> Claim | None:
        while (candidate := cursor.next()) is not None:
            bucket, name, (task_id, attempts) = candidate
            path = f"{self._mine}/{task_file(task_id, attempts + 1)}"
            log.debug("Attempting claim: %s", task_id)
            try:
                self._storage.claim_move(f"{bucket}/{name}", path)
            except FileNotFoundError:
                self.lost_races += 1
                log.debug("Lost race: %s (claimed by another worker)", task_id)
                continue
            claim = self._open(path, TaskName(task_id, attempts + 1))
            if claim is not None:
                return claim
        return None

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

    def waiting(self) -> Mapping[str, int]:
        """Waiting tasks per lane, by listing them all."""
        lanes = (lane for lane in list_names(self._layout.pending) if parse_lane(lane) is not None)
        return {lane: n for lane in lanes if (n := count_lane(self._layout.lane(lane))[0])}

    def cancel_requested(self, claim: Claim) -> bool:
        """Whether somebody wants this task cancelled."""
        return os.access(self._layout.cancel_mark(claim.task.task_id), os.F_OK)

    def _forget_cancel(self, claim: Claim) -> None:
        try:
            os.unlink(self._layout.cancel_mark(claim.task.task_id))
        except FileNotFoundError:
            return


def due_in_s(retry_at: str | None, now_s: float) -> float | None:
    """Seconds until an ISO time; None without one. An unreadable time is due now."""
    if retry_at is None:
        return None
    try:
        return parse_iso(retry_at) - now_s
    except ValueError:
        return 0.0
