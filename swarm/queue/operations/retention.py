"""Removes old finished documents in small steps: the walk through one shard, and the brain's index of all shards.

* A document's time is its file's: it was last written to when it ended.
* Nothing here reads directories of tasks that wait or run, so what is not terminal cannot be touched.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import msgspec

from swarm.core.snapshot import FinishedShard, FinishedView
from swarm.core.task import ID_RE, TERMINAL, TaskState
from swarm.filesystem.entries import DirStamp, list_names, stamp_of, status_of
from swarm.queue.batches.purge_batches import EmptyBatches
from swarm.queue.layout import Layout, is_shard, shard_time_of
from swarm.queue.storage import Storage

EMPTY_QUIET_S = 3600.0
"""An empty shard is removed only when nothing was moved into it for so long: a worker may have made it just now."""
Keep = Callable[[str, str], bool]
"""``keep(task id, path)``: whether something that waits still needs this document."""


class Removed(msgspec.Struct, frozen=True):
    """How many documents were removed."""

    documents: int = 0
    size_bytes: int = 0

    def __add__(self, other: Removed) -> Removed:
        return Removed(self.documents + other.documents, self.size_bytes + other.size_bytes)


class ShardPass:
    """A walk under way; what it counts is whole once ``done``."""

    def __init__(self, layout: Layout, state: TaskState, shard: str) -> None:
        assert state in TERMINAL, f"{state} documents are never purged"
        self.path = f"{layout.root}/{state}/{shard}"
        self.stamp: DirStamp | None = None
        """From before the walk began."""
        self.kept = 0
        """Documents that stay."""
        self.needed = 0
        """Of these, the ones that ``keep`` asked for although they are old."""
        self.oldest_s: float | None = None
        """Since when the oldest of the others is there, in seconds since the epoch."""
        self.done = False
        self._entries = self._scan()

    def _scan(self) -> Iterator[os.DirEntry[str]]:
        self.stamp = stamp_of(self.path)
        if self.stamp is None:
            return
        try:
            with os.scandir(self.path) as entries:
                yield from entries
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            return

    def step(self, budget: int) -> int:
        """Look at up to ``budget`` documents; returns how many were looked at."""
        looked = 0
        while looked < budget and not self.done:
            entry = next(self._entries, None)
            if entry is None:
                self._end()
                break
            looked += 1
            status = _status(entry)
            if status is not None:
                self._keep(status.st_mtime)
        return looked

    def remove(self, limit: int, *, before_s: float, keep: Keep, dry: bool = False) -> Removed:
        """Go on and remove up to ``limit`` documents that ended before ``before_s``, kept ones left out."""
        removed = Removed()
        while removed.documents < limit and not self.done:
            entry = next(self._entries, None)
            if entry is None:
                self._end()
                break
            status = _status(entry)
            if status is None:
                continue
            if status.st_mtime >= before_s:
                self._keep(status.st_mtime)
            elif keep(entry.name[:-5], entry.path):
                self.kept += 1
                self.needed += 1
            elif dry or _unlink(entry.path):
                removed += Removed(1, status.st_size)
        return removed

    def _keep(self, since_s: float) -> None:
        self.kept += 1
        self.oldest_s = since_s if self.oldest_s is None else min(self.oldest_s, since_s)

    def _end(self) -> None:
        self.done = True
        if self.kept == 0:
            with suppress(OSError):  # gone already, or somebody has just moved a document in
                if time.time() - os.lstat(self.path).st_mtime > EMPTY_QUIET_S:
                    os.rmdir(self.path)


def _status(entry: os.DirEntry[str]) -> os.stat_result | None:
    """None for what is no document (fsck names it) and for what was just removed."""
    if not entry.name.endswith(".json") or not ID_RE.fullmatch(entry.name[:-5]):
        return None
    status = status_of(entry.path)
    return status if status is not None and stat.S_ISREG(status.st_mode) else None


def _unlink(path: str) -> bool:
    try:
        os.unlink(path)
    except FileNotFoundError:
        return False
    return True


LOOK_BUDGET = 2000
"""Documents looked at in one tick: a few milliseconds."""
SWEEP_S = 60.0
"""A finished round through all shards is followed by the next one no sooner."""
MOST_SHARDS = 100
_Key = tuple[TaskState, str]


class _KnownShard(msgspec.Struct, frozen=True):
    stamp: DirStamp | None
    documents: int
    oldest_s: float | None


class FinishedIndex:
    """Remembers one line per shard between ticks; for one thread. Costs what changed.

    Ages count from a clock that only goes on as fast as time passes: a wall clock that jumps ahead while this process runs
    makes nothing old.
    """

    def __init__(self, layout: Layout, *, count: bool) -> None:
        self._layout = layout
        self._count = count
        self._known: dict[_Key, _KnownShard] = {}
        self._todo: list[_Key] = []
        self._walk: tuple[_Key, ShardPass] | None = None
        self._purge: tuple[_Key, ShardPass] | None = None
        self._due_s = float("-inf")
        self._batches: EmptyBatches | None = None
        self._emptied = True
        self._offset_s = time.time() - _boot_s()

    def look(self, old_after_s: float) -> FinishedView:
        """Go a step on, and say which shards hold documents that ended more than ``old_after_s`` ago, oldest first."""
        now_s = self._now_s()
        self._go_on(now_s, old_after_s)
        old = [
            FinishedShard(state=key[0], shard=key[1], documents=known.documents, oldest_age_s=now_s - known.oldest_s)
            for key, known in self._known.items()
            if known.oldest_s is not None and now_s - known.oldest_s > old_after_s
        ]
        old.sort(key=lambda shard: -shard.oldest_age_s)
        documents = sum(known.documents for known in self._known.values())
        emptied = self._emptied or self._batches is not None
        return FinishedView(documents=documents, old=tuple(old[:MOST_SHARDS]), emptied=emptied)

    def purge(self, state: TaskState, shard: str, *, older_than_s: float, limit: int, keep: Keep) -> Removed:
        """Remove up to ``limit`` documents of a shard that ended longer ago; the next call goes on where this one ended."""
        key = (state, shard)
        if self._purge is None or self._purge[0] != key:
            self._purge = (key, ShardPass(self._layout, state, shard))
        walk = self._purge[1]
        removed = walk.remove(limit, before_s=self._now_s() - older_than_s, keep=keep)
        self._emptied = self._emptied or removed.documents > 0
        if walk.done:
            self._purge = None
            self._note(key, walk)
        return removed

    def purge_batches(self, storage: Storage, *, older_than_s: float) -> tuple[str, ...]:
        """Go a step on in removing the files of batches of which nothing is left; ids of those removed now."""
        if self._batches is None:
            self._emptied = False
            self._batches = EmptyBatches(self._layout, storage, before_s=self._now_s() - older_than_s)
        removed = self._batches.step(LOOK_BUDGET)
        if self._batches.done:
            self._batches = None
        return removed

    def _go_on(self, now_s: float, old_after_s: float) -> None:
        if self._walk is None and not self._todo:
            if time.monotonic() < self._due_s:
                return
            self._begin_round(now_s, old_after_s)
        left = LOOK_BUDGET
        while left > 0:
            if self._walk is None:
                if not self._todo:
                    self._due_s = time.monotonic() + SWEEP_S
                    return
                key = self._todo.pop()
                self._walk = (key, ShardPass(self._layout, *key))
            key, walk = self._walk
            left -= walk.step(left) + 1
            if walk.done:
                self._note(key, walk)
                self._walk = None

    def _begin_round(self, now_s: float, old_after_s: float) -> None:
        there: set[_Key] = set()
        for state in TERMINAL:
            top = f"{self._layout.root}/{state}"
            for shard in list_names(top):
                if not is_shard(shard):
                    continue
                there.add((state, shard))
                if self._worth_a_look(state, shard, now_s, old_after_s):
                    self._todo.append((state, shard))
        self._known = {key: known for key, known in self._known.items() if key in there}

    def _worth_a_look(self, state: TaskState, shard: str, now_s: float, old_after_s: float) -> bool:
        made_s = shard_time_of(shard)
        if not self._count and made_s is not None and now_s - made_s < old_after_s:
            return False  # its tasks were made later, so none can have ended earlier
        known = self._known.get((state, shard))
        if known is None:
            return True
        now = stamp_of(f"{self._layout.root}/{state}/{shard}")
        return now is not None and not now.unchanged_since(known.stamp)

    def _note(self, key: _Key, walk: ShardPass) -> None:
        self._known[key] = _KnownShard(None if walk.needed else walk.stamp, walk.kept, walk.oldest_s)

    def _now_s(self) -> float:
        return min(time.time(), self._offset_s + _boot_s())


def _boot_s() -> float:
    """Seconds since boot, time asleep included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
