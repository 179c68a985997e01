"""Which tasks may have ended since the last look, at the cost of what happened: told by the kernel or directory times."""

from __future__ import annotations

import os
import time
import weakref
from collections.abc import Iterable
from itertools import islice

from swarm.core.task import TaskState
from swarm.filesystem.entries import folder_status, list_inside
from swarm.queue.layout import GRAIN_NS, Layout, parse_task_file, shard_of
from swarm.queue.storage import inotify

SHARDS_A_LOOK = 200
"""Shards whose directory times are read in one look; the others are next."""


class Departures:
    """What left ``processing``; for one thread."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._fd = inotify.opened()
        self._workers: dict[str, int] = {}
        if self._fd is not None:
            weakref.finalize(self, os.close, self._fd)

    def told(self, workers: Iterable[str]) -> tuple[set[str], bool]:
        """Ids that left the directories of these workers since the last call, and whether that is all that did.

        Not all: at the first call, of a worker seen for the first time, after lost events, and always without inotify.
        """
        if self._fd is None:
            return set(), False
        left: set[str] = set()
        whole = True
        for event in inotify.told(self._fd):
            if event.name is None:
                whole = False
                self._forget(event.watch)
            elif (parsed := parse_task_file(event.name)) is not None:
                left.add(parsed.task_id)
        for worker in workers:
            if worker not in self._workers:
                whole = False
                watch = inotify.add(self._fd, self._layout.held_by(worker), inotify.GONE)
                if watch is not None:
                    self._workers[worker] = watch
        return left, whole

    def _forget(self, watch: int) -> None:
        """Its directory has gone (or, with -1, events were lost)."""
        self._workers = {worker: known for worker, known in self._workers.items() if known != watch}


class Cancelled:
    """Which of some tasks lie in ``cancelled``, noticed by the times of its shards; for one thread."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._awaited: dict[str, set[str]] = {}
        self._seen: dict[str, int] = {}

    def watch(self, task_id: str) -> None:
        """One more to look out for."""
        shard = shard_of(task_id)
        self._awaited.setdefault(shard, set()).add(task_id)
        self._seen.pop(shard, None)

    def forget(self, task_id: str) -> None:
        """One less."""
        shard = shard_of(task_id)
        ids = self._awaited.get(shard, set())
        ids.discard(task_id)
        if not ids:
            self._awaited.pop(shard, None)
            self._seen.pop(shard, None)

    def there(self) -> set[str]:
        """Those found there now. Costs a ``stat`` per shard, and a listing of each that changed."""
        found: set[str] = set()
        for shard in list(islice(self._awaited, SHARDS_A_LOOK)):
            ids = self._awaited.pop(shard)
            self._awaited[shard] = ids  # at the end: next time it is others' turn
            found |= self._look(shard, ids)
        return found

    def _look(self, shard: str, ids: set[str]) -> set[str]:
        folder = f"{self._layout.root}/{TaskState.CANCELLED}/{shard}"
        status = folder_status(folder)
        if status is None:
            return set()
        changed_ns = status.st_mtime_ns
        if self._seen.get(shard) == changed_ns:
            return set()
        # Directory times move in steps: a change may hide behind one of the same step, so a fresh listing is not trusted.
        self._seen[shard] = changed_ns if time.time_ns() - changed_ns > GRAIN_NS else -1
        return ids.intersection(name[:-5] for name in list_inside(folder))
