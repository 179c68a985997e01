"""Counts for metrics, kept between looks: what lies ended, and what has waited too long. Costs what changed."""

from __future__ import annotations

import os
import time

import msgspec

from swarm.core.lanes import parse_lane
from swarm.core.task import TERMINAL, TaskState
from swarm.taskqueue.buckets import list_names, sorted_buckets
from swarm.taskqueue.ids import time_of
from swarm.taskqueue.layout import GRAIN_NS, Layout
from swarm.taskqueue.lookup import task_names
from swarm.taskqueue.storage import storage_faults

_LOOK_AGAIN = -1


class _Folder(msgspec.Struct, frozen=True):
    changed_ns: int
    documents: int
    stale: int = 0


class QueueGauges:
    """For one thread at a time."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._shards: dict[str, _Folder] = {}
        self._buckets: dict[str, _Folder] = {}

    @storage_faults("cannot count what has ended")
    def ended(self) -> dict[TaskState, int]:
        """Documents by state: completed, failed, cancelled, corrupt. A directory is listed again only when it changed."""
        counts: dict[TaskState, int] = {}
        shards: dict[str, _Folder] = {}
        for state in TERMINAL:
            top = f"{self._layout.root}/{state}"
            counts[state] = 0
            for name in list_names(top):
                path = f"{top}/{name}"
                folder = shards[path] = self._shard(path)
                counts[state] += folder.documents
        self._shards = shards
        counts[TaskState.CORRUPT] = sum(1 for n in list_names(self._layout.corrupt) if not n.endswith(".reason"))
        return counts

    def _shard(self, path: str) -> _Folder:
        known, changed_ns = self._shards.get(path), _changed_ns(path)
        if known is not None and known.changed_ns == changed_ns:
            return known
        return _Folder(_settled(changed_ns), len(list_names(path)))

    @storage_faults("cannot look for what has waited too long")
    def stale(self, after_s: float) -> dict[str, int]:
        """By lane, tasks that have waited longer than ``after_s`` by the wall clock; lanes without any are left out."""
        before_s = time.time() - after_s
        counts: dict[str, int] = {}
        buckets: dict[str, _Folder] = {}
        for lane in list_names(self._layout.pending):
            if parse_lane(lane) is None:
                continue
            lane_path = self._layout.lane(lane)
            for name in sorted_buckets(lane_path):
                path = f"{lane_path}/{name}"
                folder = buckets[path] = self._bucket(path, before_s)
                if folder.stale:
                    counts[lane] = counts.get(lane, 0) + folder.stale
        self._buckets = buckets
        return counts

    def _bucket(self, path: str, before_s: float) -> _Folder:
        known, changed_ns = self._buckets.get(path), _changed_ns(path)
        # Tasks only grow older: where all were stale and nothing has moved, all still are.
        if known is not None and known.changed_ns == changed_ns and known.stale == known.documents:
            return known
        names = task_names(path)
        stale = sum(1 for name in names if _since_s(path, name) < before_s)
        return _Folder(_settled(changed_ns), len(names), stale)


def _since_s(folder: str, name: str) -> float:
    made_s = time_of(name.partition(".")[0])
    if made_s is not None:
        return made_s
    try:
        return os.stat(f"{folder}/{name}").st_mtime
    except FileNotFoundError:
        return time.time()


def _changed_ns(path: str) -> int:
    try:
        return os.stat(path).st_mtime_ns
    except FileNotFoundError:
        return _LOOK_AGAIN


def _settled(changed_ns: int) -> int:
    """Directory times move in steps: a second change may hide behind a fresh one."""
    return changed_ns if time.time_ns() - changed_ns > GRAIN_NS else _LOOK_AGAIN
