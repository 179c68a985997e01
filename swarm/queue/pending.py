"""The lanes in ``pending/`` and their buckets: which there are, where a task goes, how many wait.

* ``BucketChooser`` chooses a task's bucket, and moves it there though buckets may vanish.
* ``LaneCounts`` costs what changed: a bucket is listed again only when something came or went (see ``DirStamp``). With a
  million waiting, that is a thousand ``stat`` calls and a few listings a tick.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Mapping
from typing import NamedTuple

from swarm.core.lanes import parse_lane
from swarm.core.snapshot import LaneView
from swarm.core.task import ID_PATTERN, TaskClass
from swarm.filesystem.entries import DirStamp, Folders, Known, is_text, list_inside, list_names, stamp_of, status_of
from swarm.queue.layout import (
    BUCKET_SIZE,
    ID_LENGTH,
    Layout,
    bucket_name,
    bucket_priority,
    is_grouped,
    new_id,
    parse_task_file,
    task_file,
    time_of,
)
from swarm.queue.storage import Storage


def list_lanes(layout: Layout) -> list[str]:
    """Names in ``pending`` that may be lanes, unsorted; whether each is a directory shows when it is listed."""
    return [name for name in list_names(layout.pending) if parse_lane(name) is not None and is_text(name)]


def sorted_buckets(lane_path: str) -> list[str]:
    """The buckets of a lane, most urgent first; foreign names left out."""
    return sorted(n for n in list_inside(lane_path) if bucket_priority(n) is not None)


_REQUEUED = "0"


def returned_bucket(priority: int) -> str:
    """The bucket for requeued work: it sorts before all fresh work of its priority.

    A bucket of its own, because workers read from a listing they made earlier: a new directory is seen at once.
    """
    return bucket_name(priority, _REQUEUED)


_BEHIND, _LAST = "_", "_~"
"""End the names of the buckets for what goes behind all that waits, and behind that: no fresh work is put into them, for
it would sort by id."""


def holds_requeued(bucket: str) -> bool:
    """Whether a bucket is for requeued work, so that its name says nothing about the ids in it."""
    return bucket[2:] == _REQUEUED or bucket.endswith((_BEHIND, _LAST))


AGAIN_S = 0.0005
"""Asked again sooner than this, a lane's end is where it was: what others add in between was added at the same time."""


class _End:
    """The bucket at the end of one priority of a lane, as it was found and filled since."""

    __slots__ = ("asked_s", "count", "name", "stamp")

    def __init__(self, name: str, count: int) -> None:
        self.name = name
        self.count = count
        self.asked_s = 0.0
        self.stamp: DirStamp | None = None


class BucketChooser:
    """Chooses buckets for fresh work, at the end of its priority; remembers the last one while nobody changes the lane."""

    def __init__(self, layout: Layout, storage: Storage) -> None:
        self._layout = layout
        self._storage = storage
        self._ends: dict[tuple[str, int], _End] = {}

    def at_end(self, lane: str, priority: int) -> str:
        """Name of the bucket for one fresh task."""
        end = self._ends.get((lane, priority))
        now_s = time.monotonic()
        if end is None or end.count >= BUCKET_SIZE or (now_s - end.asked_s > AGAIN_S and self._moved(end, lane, now_s)):
            end = self._ends[lane, priority] = self._find(lane, priority, end, now_s)
        end.count += 1
        return end.name

    def behind(self, lane: str, priority: int, *, last: bool) -> str:
        """Name of the bucket for one task that goes behind all that waits now, whatever its id; ``last``: and those."""
        same = [n for n in sorted_buckets(self._layout.lane(lane)) if bucket_priority(n) == priority]
        if not same:
            stem = bucket_name(priority, new_id())
        elif same[-1].endswith((_BEHIND, _LAST)):
            stem = same[-1].removesuffix(_LAST).removesuffix(_BEHIND)
        else:
            stem = name_behind(same[-1], priority)
        return f"{stem}{_LAST if last else _BEHIND}"

    def _moved(self, end: _End, lane: str, now_s: float) -> bool:
        """Whether there may be another end by now."""
        end.asked_s = now_s
        now = stamp_of(self._layout.lane(lane))
        return now is not None and not now.unchanged_since(end.stamp)

    def _find(self, lane: str, priority: int, before: _End | None, now_s: float) -> _End:
        lane_path = self._layout.lane(lane)
        stamp = stamp_of(lane_path)
        same = [n for n in sorted_buckets(lane_path) if bucket_priority(n) == priority]
        if before is not None and same and before.name == same[-1]:
            end = before
        else:
            fresh = bool(same) and not (same[-1].endswith((_BEHIND, _LAST)) or is_grouped(same[-1]))
            end = _End(same[-1], len(list_inside(f"{lane_path}/{same[-1]}"))) if fresh else _End("", BUCKET_SIZE)
        if end.count >= BUCKET_SIZE:
            end = _End(name_behind(same[-1], priority) if same else bucket_name(priority, new_id()), 0)
        end.asked_s, end.stamp = now_s, stamp
        return end

    def path(self, lane: str, bucket: str, task_id: str, attempt: int) -> str:
        """Path of a task file in a bucket."""
        return f"{self._layout.lane(lane)}/{bucket}/{task_file(task_id, attempt)}"

    def move_in(self, source: str, lane: str, bucket: str, task_id: str, attempt: int, *, flush: bool = True) -> str:
        """Move a file into a bucket, making lane and bucket as needed; returns the new path. Atomic, never overwrites.

        Raises ``FileNotFoundError`` when the *source* is gone, ``FileExistsError``.
        """
        target = self.path(lane, bucket, task_id, attempt)
        while True:
            try:
                self._storage.move(source, target, flush=flush)
            except FileNotFoundError:
                if not os.path.lexists(source):
                    raise
                self._storage.make_dir(os.path.dirname(target))
            else:
                return target


def name_behind(last: str, priority: int) -> str:
    """A new bucket that sorts behind the last one, which may be of a time before the clock was set back."""
    fresh = new_id()
    name = bucket_name(priority, fresh)
    if name > last:
        return name
    first_id = last[2 : 2 + ID_LENGTH]
    return max(bucket_name(priority, f"{first_id}-{fresh}"), f"{last}-")


_ALL_TASKS = re.compile(rf"(?>{ID_PATTERN.strip('^$')}\.[0-9]{{1,6}}\.json/)*+").fullmatch
"""Names with a ``/`` behind each, all of them task files. One match for a bucket costs a tenth of a match for each name."""


def count_waiting(path: str) -> tuple[int, float | None]:
    """Tasks in a bucket, and since when the first of them waits."""
    names = task_names(path)
    return len(names), waits_since_s(path, min(names)) if names else None


def task_names(folder: str) -> list[str]:
    """Names of task files in a directory, unsorted; what is foreign is left out."""
    names = list_inside(folder)
    if names and not _ALL_TASKS("/".join(names) + "/"):
        return [name for name in names if parse_task_file(name) is not None]
    return names


def waits_since_s(folder: str, name: str) -> float:
    """Since when it waits: from its id, or from its file's time when the id was made elsewhere."""
    made_s = time_of(name.partition(".")[0])
    if made_s is not None:
        return made_s
    status = status_of(f"{folder}/{name}")
    return time.time() if status is None else status.st_mtime


class LaneWaiting(NamedTuple):
    """What waits in one lane; more than nothing."""

    tasks: int
    oldest_s: float
    """Since when the oldest waits, in seconds since the epoch."""
    buckets: tuple[str, ...]


class LaneCounts:
    """Remembers buckets between looks. Threads may share one; they look one after another."""

    def __init__(self, layout: Layout, known: Mapping[str, Known] | None = None) -> None:
        """``known``: by lane, what was counted earlier, if anybody wrote it down; see ``Folders``."""
        self._layout = layout
        self._lanes = {lane: self._folders(lane, buckets) for lane, buckets in (known or {}).items()}
        self._looking = threading.Lock()

    def look(self) -> tuple[LaneView, ...]:
        """All lanes with waiting tasks, by name."""
        now_s = time.time()
        return tuple(self._view(lane, waiting, now_s) for lane, waiting in self.waiting().items())

    def waiting(self) -> dict[str, LaneWaiting]:
        """All lanes with waiting tasks, by name."""
        with self._looking:
            lanes = sorted(list_lanes(self._layout))
            self._lanes = {lane: self._lanes.get(lane) or self._folders(lane) for lane in lanes}
            return {lane: found for lane, folders in self._lanes.items() if (found := self._lane(lane, folders)) is not None}

    def known(self) -> dict[str, Known]:
        """By lane, what was counted at the last look."""
        return {lane: folders.known for lane, folders in self._lanes.items()}

    def _folders(self, lane: str, known: Known | None = None) -> Folders:
        return Folders(self._layout.lane(lane), count_waiting, known)

    def _lane(self, lane: str, folders: Folders) -> LaneWaiting | None:
        found = folders.look(sorted_buckets(self._layout.lane(lane)))
        tasks = sum(folder.files for folder in found.values())
        oldest_s = min((folder.oldest_s for folder in found.values() if folder.oldest_s is not None), default=None)
        return None if oldest_s is None else LaneWaiting(tasks, oldest_s, tuple(found))

    def _view(self, lane: str, waiting: LaneWaiting, now_s: float) -> LaneView:
        parsed = parse_lane(lane)
        assert parsed is not None, "only lanes are looked at"
        task_class, argument = parsed
        return LaneView(
            lane=lane,
            task_class=task_class,
            model=argument if task_class is TaskClass.LLM else None,
            target_worker=argument if task_class is TaskClass.RESOURCE else None,
            pending=waiting.tasks,
            oldest_wait_s=max(0.0, now_s - waiting.oldest_s),
        )
