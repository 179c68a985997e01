"""Counts for metrics, kept between looks: finished tasks, and tasks that wait too long.

A look costs what changed.
"""

from __future__ import annotations

import time

import msgspec

from swarm.core.task import TaskState
from swarm.filesystem.entries import DirStamp, stamp_of, status_of
from swarm.queue.layout import Layout, time_of
from swarm.queue.stats.counts import EndedCounts
from swarm.queue.stats.lane_counts import task_names
from swarm.queue.storage import storage_faults
from swarm.queue.submit.buckets import list_lanes, sorted_buckets


class _Bucket(msgspec.Struct, frozen=True):
    stamp: DirStamp | None
    stale: int
    next_s: float
    """Since when the first of the others waits: nothing more is stale before that is too long ago."""


class QueueGauges:
    """For one thread at a time."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._ended = EndedCounts(layout)
        self._buckets: dict[str, _Bucket] = {}
        self._before_s = float("-inf")

    @storage_faults("cannot count what has ended")
    def ended(self) -> dict[TaskState, int]:
        """Documents by state: completed, failed, cancelled, corrupt. A directory is listed again only when it changed."""
        return self._ended.look()

    @storage_faults("cannot look for what has waited too long")
    def stale(self, after_s: float) -> dict[str, int]:
        """By lane, tasks that have waited longer than ``after_s`` by the wall clock; lanes without any are left out."""
        before_s = time.time() - after_s
        if before_s < self._before_s:  # a clock set back, or a longer wait asked for: what was stale may not be
            self._buckets = {}
        self._before_s = before_s
        counts: dict[str, int] = {}
        buckets: dict[str, _Bucket] = {}
        for lane in list_lanes(self._layout):
            lane_path = self._layout.lane(lane)
            for name in sorted_buckets(lane_path):
                path = f"{lane_path}/{name}"
                bucket = buckets[path] = self._bucket(path, before_s)
                if bucket.stale:
                    counts[lane] = counts.get(lane, 0) + bucket.stale
        self._buckets = buckets
        return counts

    def _bucket(self, path: str, before_s: float) -> _Bucket:
        known, now = self._buckets.get(path), stamp_of(path)
        if known is not None and now is not None and now.unchanged_since(known.stamp) and before_s <= known.next_s:
            return known
        since_s = [_since_s(path, name) for name in task_names(path)]
        waiting_s = [s for s in since_s if s >= before_s]
        return _Bucket(now, len(since_s) - len(waiting_s), min(waiting_s, default=float("inf")))


def _since_s(folder: str, name: str) -> float:
    made_s = time_of(name.partition(".")[0])
    if made_s is not None:
        return made_s
    status = status_of(f"{folder}/{name}")
    return time.time() if status is None else status.st_mtime
