"""Chooses a task's bucket in its lane, and moves it there though buckets may vanish."""

from __future__ import annotations

import os
import time

from swarm.core.lanes import parse_lane
from swarm.filesystem.entries import DirStamp, is_text, list_inside, list_names, stamp_of
from swarm.queue.layout import (
    BUCKET_SIZE,
    ID_LENGTH,
    Layout,
    bucket_name,
    bucket_priority,
    is_grouped,
    new_id,
    task_file,
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
