"""Ends, in steps, the waiting tasks of batches that are over their failure limit.

Costs nothing while no batch has a limit; else what following such batches costs (see ``ShardWatch``). Failures from before
tasks of the batch were retried do not count.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator

import msgspec

from swarm.core.snapshot import BatchOverLimit
from swarm.core.task import TaskState
from swarm.errors import QueueError, StorageFault
from swarm.filesystem.entries import DirStamp, stamp_of, status_of
from swarm.queue import lookup
from swarm.queue.batches.batch_book import BatchBook
from swarm.queue.batches.batch_watch import ShardWatch
from swarm.queue.layout import Layout
from swarm.queue.lookup import Located
from swarm.queue.operations.cancel import Canceller, is_child
from swarm.queue.storage import Storage, list_ids

log = logging.getLogger(__name__)
STEP = 1000
"""Tasks ended in one tick."""
QUIET_NS = 1_000_000_000
"""Tasks are retried one by one: none of a batch is judged until the last retry is so long ago."""


class _Limited(msgspec.Struct):
    max_fails: int
    retried_ns: int
    failed: int = 0
    """Since then."""
    watch: ShardWatch | None = None
    ids: frozenset[str] = frozenset()
    rest: Iterator[Located] | None = None


class FailureLimits:
    """For the brain's one thread."""

    def __init__(self, layout: Layout, storage: Storage) -> None:
        self._layout = layout
        self._book = BatchBook(layout, storage)
        self._canceller = Canceller(layout, storage)
        self._limited: dict[str, _Limited] = {}
        self._stamps: dict[str, tuple[int, int]] = {}
        self._seen: DirStamp | None = None
        self._unreadable: dict[str, str] = {}

    def look(self) -> tuple[BatchOverLimit, ...]:
        """Batches past their limit of which something waits or runs."""
        self._read_manifests()
        found = []
        for batch_id, limited in list(self._limited.items()):
            if 0 <= time.time_ns() - limited.retried_ns < QUIET_NS:
                continue
            try:
                left = self._follow(batch_id, limited)
            except StorageFault as fault:
                self._say(batch_id, fault)
                continue
            if not left:
                del self._limited[batch_id]
            elif limited.failed > limited.max_fails:
                found.append(BatchOverLimit(batch_id=batch_id, failed=limited.failed, max_fails=limited.max_fails))
        return tuple(found)

    def _follow(self, batch_id: str, limited: _Limited) -> int:
        """Count what has failed since the last look; how many have not ended."""
        if limited.watch is None:
            try:
                limited.watch = ShardWatch(self._layout, self._book.task_ids(batch_id))
            except StorageFault:
                raise
            except (FileNotFoundError, QueueError, ValueError):
                return 0  # going
        for task_id, state in limited.watch.look():
            if state is TaskState.FAILED:
                limited.failed += _changed_ns(self._layout.terminal(state, task_id)) > limited.retried_ns
        return limited.watch.left

    def stop(self, batch_id: str, reason: str) -> int:
        """End the next ``STEP`` of what waits of it as cancelled; how many. What runs may end. Raises ``StorageFault``."""
        self._read_manifests()  # tasks may have been retried since the look
        limited = self._limited.get(batch_id)
        if limited is None or limited.failed <= limited.max_fails:
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
        limited.rest = None  # once more from the start next time: something may have been requeued
        return done

    def _waiting(self) -> Iterator[Located]:
        for state in (TaskState.PENDING, TaskState.BLOCKED):
            yield from lookup.list_state(self._layout, state)

    def _read_manifests(self) -> None:
        now = stamp_of(self._layout.batches)
        if now is None or now.unchanged_since(self._seen):
            return
        batch_ids = list_ids(self._layout.batches)
        for batch_id in self._limited.keys() - set(batch_ids):
            del self._limited[batch_id]  # purged
        readable = [self._read(batch_id, f"{self._layout.batches}/{batch_id}.json") for batch_id in batch_ids]
        self._seen = now if all(readable) else None

    def _read(self, batch_id: str, path: str) -> bool:
        """False: it cannot be read now."""
        try:
            stamp = _changed_ns(path), _changed_ns(self._book.retried_mark(batch_id))
            if self._stamps.get(batch_id) == stamp:
                return True
            manifest = self._book.manifest(batch_id)
        except StorageFault as fault:
            self._say(batch_id, fault)
            return False
        except (FileNotFoundError, QueueError, ValueError):
            return True  # going, or no manifest
        self._stamps[batch_id] = stamp
        self._limited.pop(batch_id, None)
        if manifest.max_fails is not None and manifest.submitted:
            self._limited[batch_id] = _Limited(max_fails=manifest.max_fails, retried_ns=stamp[1])
        return True

    def _say(self, batch_id: str, fault: StorageFault) -> None:
        """It may be one bad sector: no other batch, and nothing else of the tick, waits for this one."""
        if self._unreadable.get(batch_id) != str(fault):
            log.warning("%s; the failure limit of batch %s is not checked until that can be read", fault, batch_id)
        self._unreadable[batch_id] = str(fault)


def _changed_ns(path: str) -> int:
    """When it was last written to, long ago if it is not there."""
    status = status_of(path)
    return 0 if status is None else status.st_mtime_ns
