"""Index of finished documents, updated in small steps, so that old ones go without a stall.

The brain removes them.
"""

from __future__ import annotations

import time

import msgspec

from swarm.core.snapshot import FinishedShard, FinishedView
from swarm.core.task import TERMINAL, TaskState
from swarm.filesystem.entries import DirStamp, list_names, stamp_of
from swarm.queue.batches.purge_batches import EmptyBatches
from swarm.queue.layout import Layout, is_shard, shard_time_of
from swarm.queue.operations.shard_scan import Keep, Removed, ShardPass
from swarm.queue.storage import Storage

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
