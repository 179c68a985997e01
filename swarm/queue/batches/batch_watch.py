"""Following tasks to their ends by listing only shards that changed.

One whose file was quarantined will never end: it counts as failed.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from swarm.core.task import TERMINAL, TaskState
from swarm.filesystem.entries import DirStamp, is_file, list_inside, stamp_of
from swarm.queue.layout import Layout, shard_of
from swarm.queue.lookup import CorruptTasks


class Ended(msgspec.Struct, frozen=True, kw_only=True):
    """Counts of a batch, from the state directories."""

    completed: int
    failed: int
    cancelled: int
    left: int

    @property
    def total(self) -> int:
        """All items."""
        return self.completed + self.failed + self.cancelled + self.left


class ShardWatch:
    """Which of these tasks have ended since the last look. Memory: one id per task not yet ended."""

    def __init__(self, layout: Layout, task_ids: Iterable[str]) -> None:
        self._layout = layout
        self._open: dict[str, set[str]] = {}
        self._seen: dict[str, DirStamp] = {}
        self._corrupt = CorruptTasks(layout)
        self.add(task_ids)

    def add(self, task_ids: Iterable[str]) -> None:
        """Follow these too. None of them may have been followed before."""
        shards: dict[str, set[str]] = {}
        for task_id in task_ids:
            shards.setdefault(shard_of(task_id), set()).add(task_id)
        for shard, ids in shards.items():
            self._open.setdefault(shard, set()).update(ids)
            for state in TERMINAL:  # what was listed there before did not look for these
                self._seen.pop(f"{self._layout.root}/{state}/{shard}", None)

    @property
    def left(self) -> int:
        """How many have not ended."""
        return sum(len(ids) for ids in self._open.values())

    def look(self) -> list[tuple[str, TaskState]]:
        """What has ended since. Costs one ``stat`` per shard and state, and a listing of each that changed."""
        ended = [(task_id, TaskState.FAILED) for task_id in sorted(self._corrupt.fresh()) if self._set_aside(task_id)]
        for shard in list(self._open):
            for state in TERMINAL:
                ended += [(task_id, state) for task_id in sorted(self._look_at(shard, state))]
            if not self._open[shard]:
                del self._open[shard]
        return ended

    def _look_at(self, shard: str, state: TaskState) -> set[str]:
        folder = f"{self._layout.root}/{state}/{shard}"
        now = stamp_of(folder)
        if now is None or now.unchanged_since(self._seen.get(folder)):
            return set()
        waiting = self._open[shard]
        there = waiting.intersection(n[:-5] for n in list_inside(folder))
        ended = {task_id for task_id in there if is_file(f"{folder}/{task_id}.json")}
        waiting.difference_update(ended)
        self._seen[folder] = now
        return ended

    def _set_aside(self, task_id: str) -> bool:
        """Whether its file in quarantine is all there is of one of these; then it is followed no longer."""
        waiting = self._open.get(shard_of(task_id), set())
        if task_id not in waiting or not self._corrupt.holds(task_id):
            return False
        waiting.discard(task_id)
        return True

    def open_ids(self, limit: int | None = None) -> list[str]:
        """Some ids that have not ended (None: all), oldest first."""
        return sorted(i for ids in self._open.values() for i in ids)[:limit]


class BatchWatch:
    """Counts a batch to its end."""

    def __init__(self, layout: Layout, task_ids: Iterable[str]) -> None:
        self._watch = ShardWatch(layout, task_ids)
        self._ended: dict[TaskState, int] = dict.fromkeys(TERMINAL, 0)

    def look(self) -> Ended:
        """Count now; costs what ``ShardWatch.look`` costs."""
        for _, state in self._watch.look():
            self._ended[state] += 1
        return Ended(
            completed=self._ended[TaskState.COMPLETED],
            failed=self._ended[TaskState.FAILED],
            cancelled=self._ended[TaskState.CANCELLED],
            left=self._watch.left,
        )

    def add(self, task_ids: Iterable[str]) -> None:
        """Count these too. None of them may have been counted before."""
        self._watch.add(task_ids)

    def open_ids(self, limit: int | None = None) -> list[str]:
        """Some ids that have not ended (None: all), oldest first."""
        return self._watch.open_ids(limit)
