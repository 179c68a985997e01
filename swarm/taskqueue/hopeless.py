"""Batches with a limit of failures: how they stand, and ending in steps what waits of one that is past its limit.

Costs nothing while no batch has a limit; else what following such batches costs (see ``batchwatch``).
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import msgspec

from swarm.core.snapshot import HopelessView
from swarm.core.task import TaskState
from swarm.errors import QueueError
from swarm.taskqueue import lookup
from swarm.taskqueue.batches import BatchBook
from swarm.taskqueue.batchwatch import BatchWatch
from swarm.taskqueue.buckets import list_names
from swarm.taskqueue.cancelling import Canceller, is_child
from swarm.taskqueue.layout import GRAIN_NS, Layout
from swarm.taskqueue.lookup import Located
from swarm.taskqueue.storage import Storage

STEP = 1000
"""Tasks ended in one turn."""


class _Limited(msgspec.Struct):
    watch: BatchWatch
    max_fails: int
    stamp: int
    ids: frozenset[str] = frozenset()
    rest: Iterator[Located] | None = None


class HopelessBatches:
    """For the brain's one thread."""

    def __init__(self, layout: Layout, storage: Storage) -> None:
        self._layout = layout
        self._book = BatchBook(layout, storage)
        self._canceller = Canceller(layout, storage)
        self._limited: dict[str, _Limited] = {}
        self._stamps: dict[str, int] = {}
        self._seen_ns = -1

    def look(self) -> tuple[HopelessView, ...]:
        """Batches past their limit of which something waits or runs."""
        self._read_manifests()
        found = []
        for batch_id, limited in list(self._limited.items()):
            ended = limited.watch.look()
            if not ended.left:
                del self._limited[batch_id]
            elif ended.failed > limited.max_fails:
                found.append(HopelessView(batch_id=batch_id, failed=ended.failed, max_fails=limited.max_fails))
        return tuple(found)

    def stop(self, batch_id: str, reason: str) -> int:
        """End the next ``STEP`` of what waits of it as cancelled; how many. What runs may end. Raises ``StorageFault``."""
        limited = self._limited.get(batch_id)
        if limited is None:
            return 0
        if limited.rest is None:
            limited.ids = frozenset(self._book.task_ids(batch_id))
            limited.rest = self._waiting()
        done = 0
        for located in limited.rest:
            if located.task_id in limited.ids or is_child(located, limited.ids):
                done += self._canceller.end(located, reason)
                if done >= STEP:
                    return done
        limited.rest = None  # once more from the start next time: something may have been given back
        return done

    def _waiting(self) -> Iterator[Located]:
        for state in (TaskState.PENDING, TaskState.BLOCKED):
            yield from lookup.list_state(self._layout, state)

    def _read_manifests(self) -> None:
        try:
            changed_ns = os.stat(self._layout.batches).st_mtime_ns
        except FileNotFoundError:
            return
        if changed_ns == self._seen_ns:
            return
        self._seen_ns = changed_ns if _settled(changed_ns) else -1
        names = list_names(self._layout.batches)
        for batch_id in self._limited.keys() - {name[:-5] for name in names}:
            del self._limited[batch_id]  # purged
        for name in names:
            if name.endswith(".json") and name[0] != ".":
                self._read(name[:-5], f"{self._layout.batches}/{name}")

    def _read(self, batch_id: str, path: str) -> None:
        try:
            stamp = os.stat(path).st_mtime_ns
            if self._stamps.get(batch_id) == stamp:
                return
            manifest = self._book.manifest(batch_id)
        except (FileNotFoundError, QueueError, ValueError):
            return  # going, or no manifest
        self._stamps[batch_id] = stamp
        self._limited.pop(batch_id, None)
        if manifest.max_fails is not None and manifest.submitted:
            watch = BatchWatch(self._layout, self._book.task_ids(batch_id))
            self._limited[batch_id] = _Limited(watch=watch, max_fails=manifest.max_fails, stamp=stamp)


def _settled(changed_ns: int) -> bool:
    return time.time_ns() - changed_ns > GRAIN_NS
