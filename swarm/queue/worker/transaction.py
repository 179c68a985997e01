"""A worker's transaction: records outcomes and claims new tasks, durable together.

* ``finish`` writes an outcome behind the body of its task; ``claim`` renames a waiting task into the worker's directory.
* The commit flushes the outcomes, files them by renames, then flushes the directories: no name may say what its file does
  not hold yet. Two flushes, however many tasks.
* If it fails, nothing counts: the same outcomes may be given again (what was recorded is recognised), and what was claimed
  goes back before anything else is claimed.
"""

from __future__ import annotations

import errno
import logging
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

from swarm.core.claim import Claim, Finish
from swarm.core.task import TaskState, Trail
from swarm.errors import StorageFault, TaskInvalid
from swarm.filesystem.entries import list_inside, list_names
from swarm.queue import codec
from swarm.queue.layout import Layout, TaskName, group_of, task_file
from swarm.queue.storage import Storage, about_host, storage_faults
from swarm.queue.submit.buckets import BucketChooser
from swarm.queue.worker.lane_cursor import LaneCursor
from swarm.queue.worker.transitions import Ending, OutcomeWriter, Transitions

log = logging.getLogger(__name__)

UNREADABLE_S = 30.0
"""For so long a task whose file could not be read is passed over by this worker."""
_CLAIMING = storage_faults("cannot claim")
_RECORDING = storage_faults("results and claims could not be recorded")


class Origin(NamedTuple):
    """Where a claimed task came from: the bucket's path and the name that it had there."""

    bucket: str
    name: TaskName


class LaneClaimer:
    """Moves the best waiting task of a lane to one worker, unflushed. Safe from several threads.

    Making it makes the worker's directory (raises ``StorageFault``).
    """

    def __init__(self, layout: Layout, storage: Storage, worker: str) -> None:
        self._layout = layout
        self._storage = storage
        self.folder = layout.held_by(worker)
        self._cursors: dict[str, LaneCursor] = {}
        self._buckets = BucketChooser(layout, storage)
        self._lock = threading.Lock()
        self._returning: dict[str, Origin] = {}
        self._unreadable: dict[str, float] = {}
        self.lost_races = 0
        with storage_faults(f"cannot create the directory of {worker}"):
            storage.make_dir(self.folder)

    def take(self, lanes: Sequence[str]) -> tuple[str, Origin] | None:
        """Move the first candidate of the first lane that has one; its path now and where it was. Raises ``OSError``."""
        with self._lock:
            self._return()
            for lane in lanes:
                cursor = self._cursors.get(lane)
                if cursor is None:
                    cursor = self._cursors[lane] = LaneCursor(self._layout.lane(lane), self._held_groups)
                if self._unreadable or cursor.without:
                    cursor.without = self._passed_over()
                taken = self._take_from(cursor)
                if taken is not None:
                    return taken
        return None

    def give_back(self, claimed: Mapping[str, Origin]) -> None:
        """Return these claimed files, by path, to their lanes before anything else is taken."""
        if claimed:
            with self._lock:
                self._returning.update(claimed)

    def pass_over(self, task_id: str) -> None:
        """Its file cannot be read: take others for a while. One bad sector must not keep a worker from all other work."""
        with self._lock:
            self._unreadable[task_id] = time.monotonic() + UNREADABLE_S

    def _take_from(self, cursor: LaneCursor) -> tuple[str, Origin] | None:
        while (candidate := cursor.next()) is not None:
            bucket, name, parsed = candidate
            path = f"{self.folder}/{task_file(parsed.task_id, parsed.attempt + 1)}"
            log.debug("Attempting claim: %s", parsed.task_id)
            origin = self._returning[path] = Origin(bucket, parsed)  # until it is known what became of the move
            try:
                self._storage.claim_move(f"{bucket}/{name}", path)
            except FileNotFoundError:
                cursor.lost()
                self.lost_races += 1
                log.debug("Lost race: %s (claimed by another worker)", parsed.task_id)
            except OSError as exc:
                if about_host(exc):
                    raise
                if cursor.bar():  # a mount, or a directory without permission: others are not to wait for it
                    log.warning("Nothing can be claimed from %s: %s; it is skipped until it changes", bucket, exc.strerror)
            else:
                del self._returning[path]
                return path, origin
            del self._returning[path]
        return None

    def _held_groups(self) -> Counter[str]:
        """How many other workers run tasks of which prefix group. A few listings, made when a group is used up."""
        held = Counter[str]()
        for folder in map(self._layout.held_by, list_names(self._layout.processing)):
            if folder != self.folder:
                held.update({group_of(name) for name in list_inside(folder)})
        return held

    def _passed_over(self) -> frozenset[str]:
        now_s = time.monotonic()
        self._unreadable = {one: until_s for one, until_s in self._unreadable.items() if until_s > now_s}
        return frozenset(self._unreadable)

    def _return(self) -> None:
        """Only a fault of the disk leaves something; the disk has to work again before anything else is claimed."""
        for path, (bucket, name) in list(self._returning.items()):
            lane, _, bucket_name = bucket.removeprefix(f"{self._layout.pending}/").partition("/")
            with suppress(FileNotFoundError):  # the fault came before the move
                self._buckets.move_in(path, lane, bucket_name, *name)
            del self._returning[path]


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

    def claim(self, lanes: Sequence[str]) -> Claim | None:
        """The best task of the first lane that has one; None: none has, or ``fault`` says why none can be claimed."""
        if self.fault is not None:
            return None
        try:
            with _CLAIMING:
                while (taken := self._claimer.take(lanes)) is not None:
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
