"""Claims the best waiting task of a lane: the position in each lane, and the rename that takes a task.

* A cached listing is only a hint at what to try; the rename decides.
* The cursor lists the lane again when its directory changed and when a listing is used up.
* A second change may hide behind a fresh one (see ``DirStamp``). While names are left that can only be a more urgent
  bucket: the directory's count of links shows it at once (where the file system counts), and one more listing when the
  grain has passed shows it in any case. With no names left each look is a listing: *none* is never a guess.
* Of a bucket of prefix groups one group is taken at a time (see ``next_group``), or with ``spread`` one for each slot.
"""

from __future__ import annotations

import errno
import logging
import os
import random
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

from swarm.core.prefix_groups import next_group, take_freed
from swarm.filesystem.entries import GRAIN_NS, DirStamp, list_inside, list_names, stamp_from, stamp_of
from swarm.queue.layout import BUCKET_SIZE, GROUP_MARK, Layout, TaskName, group_of, is_grouped, parse_task_file, task_file
from swarm.queue.pending import BucketChooser, sorted_buckets
from swarm.queue.storage import Storage, about_host, storage_faults

log = logging.getLogger(__name__)
UNREADABLE_S = 30.0
"""For so long a task whose file could not be read is passed over by this worker."""
_MOST_SLOTS = 512
_CONTENDED_S = 0.05
"""Races lost so soon after one another mean that others claim here as fast as we do."""
_STRAYED_S = 1.0
"""How long a cursor that moved away stays away from the head, and how long a lost race is remembered."""
KEEP_NS = 10_000_000_000
"""A used-up bucket at its lane's end stays for so long: who submits a task now and then puts the next one there."""
_NO_DIRECTORY = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EACCES)


class OpenDirectory:
    """Held open, so that asking for its state spares the kernel its path. Follows the directory, not the path.

    Raises ``FileNotFoundError`` where there is no directory, or one that may not be read.
    """

    def __init__(self, path: str) -> None:
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as exc:
            if exc.errno not in _NO_DIRECTORY:
                raise
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path) from exc
        weakref.finalize(self, os.close, self._fd)

    def status(self) -> os.stat_result:
        """Its status now."""
        return os.fstat(self._fd)


class LaneCursor:
    """Yields candidates of one lane, most urgent first; within a bucket oldest first, unless others claim there too.

    ``held``: how many tasks of which prefix group others run.

    Who loses a race steps aside, further the sooner it happens again, so that many workers on one bucket each have a
    stretch of it to themselves; what was passed over comes after, and at the latest a second later.
    """

    def __init__(self, lane_path: str, held: Callable[[], Mapping[str, int]] = dict) -> None:
        self.lane_path = lane_path
        self._held = held
        self._group = self._chosen = self._resumed = ""
        self._groups: dict[str, list[str]] = {}
        self._lane: OpenDirectory | None = None
        self._seen: DirStamp | None = None
        self._links = 0
        self._spared = False
        self._buckets: list[str] = []
        self._bucket = self._folder = ""
        self._names: list[str] = []
        self._barren: dict[str, DirStamp] = {}
        self._kept: tuple[str, DirStamp] | None = None
        self._window = 1
        self._lost_s = 0.0
        self._strayed_s = 0.0
        self.without: frozenset[str] = frozenset()
        """Ids of tasks that are not given."""
        self.freed: list[str] | None = None
        """With ``spread``: the groups of the prompts that free slots hold, last freed last; used up by ``next``."""

    def next(self) -> tuple[str, str, TaskName] | None:
        """The next candidate as (bucket path, file name, id and attempt), or None when the lane shows none."""
        self._group, self._resumed = self._chosen, ""  # the candidate before was taken, or ``lost`` put this right
        if not self._refresh():
            return None
        if self.freed is not None and self._names and is_grouped(self._bucket):
            self._choose()
        while True:
            while self._names:
                name = self._names.pop()
                parsed = parse_task_file(name)
                if parsed is not None and parsed.task_id not in self.without:
                    return self._folder, name, parsed
            if not self._open_next() and not (self._spared and self._refresh()):
                return None

    def lost(self) -> None:
        """The last candidate was missing: another worker claims here. List again, and move away from the head."""
        now_s = time.monotonic()
        since_s = now_s - self._lost_s
        if since_s < _CONTENDED_S:
            self._window = min(2 * self._window, BUCKET_SIZE)
        elif since_s > _STRAYED_S:
            self._window = 2
        self._lost_s = now_s
        self._names, self._chosen = [], self._group
        if self.freed is not None and self._resumed:
            self.freed.append(self._resumed)

    def bar(self) -> bool:
        """Nothing can be taken out of the bucket of the last candidate: pass it over until it changes. False: known."""
        now, before = stamp_of(self._folder), self._barren.get(self._bucket)
        self._names = []
        if now is None:
            self._barren.pop(self._bucket, None)
            return True
        self._barren[self._bucket] = now
        return before is None or before.changed_ns != now.changed_ns

    def _refresh(self) -> bool:
        """Follow changes of the lane directory; False if there is no lane."""
        try:
            if self._lane is None or not self._names:  # by its path: nobody may wait for work on a lane that was replaced
                self._lane = OpenDirectory(self.lane_path)
            status = self._lane.status()
        except FileNotFoundError:
            self._seen, self._buckets, self._names = None, [], []
            return False
        now, links = stamp_from(status), status.st_nlink
        self._spared = False
        if not now.unchanged_since(self._seen) or links != self._links:
            self._spared = self._may_be_spared(now, links)
            if not self._spared:
                self._list(now, links)
        if self._strayed_s and self._names and time.monotonic() - self._strayed_s > _STRAYED_S:
            self._names = []
        return True

    def _may_be_spared(self, now: DirStamp, links: int) -> bool:
        """Whether a listing can wait: names are left, nothing shows a change, and the grain has not passed yet."""
        if self._seen is None or not self._names:
            return False
        same = (self._seen.changed_ns, self._links) == (now.changed_ns, links)
        return same and 0 <= now.quiet_ns <= GRAIN_NS

    def _list(self, now: DirStamp, links: int) -> None:
        self._buckets = sorted_buckets(self.lane_path)
        self._seen, self._links = now, links
        if self._buckets and self._bucket > self._buckets[0]:
            self._names = []

    def _open_next(self) -> bool:
        """List the first bucket that has candidates; remove those found empty. False when there is none."""
        for bucket in self._buckets:
            path = f"{self.lane_path}/{bucket}"
            now = stamp_of(path)
            if now is None or self._passed_over(bucket, now):
                continue
            names = list_inside(path)
            if self.without and names and not self._given(names):
                continue
            if any(parse_task_file(n) for n in names):
                self._bucket, self._folder = bucket, path
                names.sort(reverse=True)
                if is_grouped(bucket):
                    self._part(names)
                    self._choose()
                else:
                    self._names = self._in_turn(names)
                return True
            self._leave_empty(bucket, path, now, foreign=bool(names))
        return False

    def _passed_over(self, bucket: str, now: DirStamp) -> bool:
        barren = self._barren.get(bucket)
        if barren is not None and barren.changed_ns == now.changed_ns:
            return True
        return self._kept is not None and self._kept[0] == bucket and now.unchanged_since(self._kept[1]) and _fresh(now)

    def _given(self, names: list[str]) -> bool:
        return any(parsed.task_id not in self.without for n in names if (parsed := parse_task_file(n)) is not None)

    def _part(self, names: list[str]) -> None:
        """Sort the names of a bucket, last one first, by their groups."""
        groups: dict[str, list[str]] = {}
        for name in reversed(names):
            groups.setdefault(name[GROUP_MARK], []).append(name)
        self._groups = {mark: self._in_turn(some[::-1]) for mark, some in groups.items() if self._given(some)}

    def _choose(self) -> None:
        """Go on with the group to take from now."""
        waiting = {mark: len(some) for mark, some in self._groups.items() if some}
        self._resumed = self._group if self.freed is None else take_freed(self.freed, waiting)
        self._chosen = next_group(waiting, self._resumed, self._held)
        self._names = self._groups[self._chosen]

    def _in_turn(self, names: list[str]) -> list[str]:
        """These names, last one first to be tried: from the head on, or from a little further if others work here."""
        if time.monotonic() - self._lost_s > _STRAYED_S:
            self._window = 1
        aside = random.randrange(min(self._window, len(names)))
        self._strayed_s = time.monotonic() if aside else 0.0
        return names[len(names) - aside :] + names[: len(names) - aside] if aside else names

    def _leave_empty(self, bucket: str, path: str, now: DirStamp, *, foreign: bool) -> None:
        """An empty bucket goes, the last one later; one with only foreign files is not listed again until it changes."""
        if foreign:
            if now.settled:
                self._barren[bucket] = now
        elif bucket == self._buckets[-1] and _fresh(now):
            self._kept = bucket, now
        else:
            self._seen = None  # it goes, or somebody just put a task in or took it away: look again
            with suppress(OSError):
                os.rmdir(path)
                self._barren.pop(bucket, None)


def _fresh(now: DirStamp) -> bool:
    return 0 <= now.quiet_ns < KEEP_NS


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
        self._freed: list[str] = []
        self._spread = False
        self.lost_races = 0
        with storage_faults(f"cannot create the directory of {worker}"):
            storage.make_dir(self.folder)

    def ended(self, group: str) -> None:
        """A task of this prefix group has ended here: a slot of the server is free that holds its prompt."""
        if group:
            with self._lock:
                self._freed.append(group)
                del self._freed[:-_MOST_SLOTS]

    def take(self, lanes: Sequence[str], *, spread: bool = False) -> tuple[str, Origin] | None:
        """Move the first candidate of the first lane that has one; its path now and where it was. Raises ``OSError``.

        ``spread``: the server has a free slot for each task that is taken, so each slot goes on with its own prefix group.
        """
        with self._lock:
            self._return()
            self._spread = spread
            for lane in lanes:
                cursor = self._cursors.get(lane)
                if cursor is None:
                    cursor = self._cursors[lane] = LaneCursor(self._layout.lane(lane), self._held_groups)
                cursor.freed = self._freed if spread else None
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
        """How many tasks of which prefix group others run, or with ``spread`` other slots; looked up when one is used up."""
        held = Counter[str]()
        for folder in map(self._layout.held_by, list_names(self._layout.processing)):
            if self._spread or folder != self.folder:
                held.update(map(group_of, list_inside(folder)))
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
