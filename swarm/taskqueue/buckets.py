"""Into which bucket of a lane a task goes, and getting it there though buckets may vanish under one's feet."""

from __future__ import annotations

import os

from swarm.taskqueue.ids import new_id
from swarm.taskqueue.layout import BUCKET_SIZE, Layout, bucket_name, bucket_priority, task_file
from swarm.taskqueue.storage import Storage


def list_names(path: str) -> list[str]:
    """Names in a directory, [] if there is none."""
    try:
        return os.listdir(path)
    except (FileNotFoundError, NotADirectoryError):
        return []


def sorted_buckets(lane_path: str) -> list[str]:
    """The buckets of a lane, most urgent first; foreign names left out."""
    return sorted(n for n in list_names(lane_path) if bucket_priority(n) is not None)


def returned_bucket(priority: int) -> str:
    """The bucket for work that was given back: it sorts before all fresh work of its priority.

    A bucket of its own, because workers read from a listing they made earlier: a new directory is seen at once.
    """
    return bucket_name(priority, "0")


class BucketChooser:
    """Chooses buckets for fresh work, at the end of its priority. Remembers what it filled."""

    def __init__(self, layout: Layout, storage: Storage) -> None:
        self._layout = layout
        self._storage = storage
        self._filled: dict[tuple[str, int], tuple[str, int]] = {}

    def at_end(self, lane: str, priority: int) -> str:
        """Name of the bucket for one fresh task."""
        name, count = self._filled.get((lane, priority), ("", BUCKET_SIZE))
        if count >= BUCKET_SIZE:
            name, count = self._last(lane, priority)
        if count >= BUCKET_SIZE:
            name, count = bucket_name(priority, new_id()), 0
        self._filled[(lane, priority)] = (name, count + 1)
        return name

    def _last(self, lane: str, priority: int) -> tuple[str, int]:
        lane_path = self._layout.lane(lane)
        same = [n for n in sorted_buckets(lane_path) if bucket_priority(n) == priority]
        if not same:
            return "", BUCKET_SIZE
        return same[-1], len(list_names(f"{lane_path}/{same[-1]}"))

    def path(self, lane: str, bucket: str, task_id: str, attempt: int) -> str:
        """Of a task file in a bucket."""
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
