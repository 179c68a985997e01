"""How many tasks wait in each lane, kept up to date at the cost of what changed.

A bucket is listed again only when its directory's time moved: with a million waiting, a thousand ``stat`` calls and a few
listings a tick.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import NamedTuple

from swarm.core.lanes import parse_lane
from swarm.core.snapshot import LaneView
from swarm.core.task import TaskClass
from swarm.queue.layout import Layout
from swarm.queue.stats.dir_counts import Folders, Known, count_waiting
from swarm.queue.submit.buckets import list_lanes, sorted_buckets


class LaneWaiting(NamedTuple):
    """What waits in one lane; more than nothing."""

    tasks: int
    oldest_s: float
    """Since when the oldest waits, in seconds since the epoch."""
    buckets: tuple[str, ...]


class LaneCounts:
    """Remembers buckets between looks. Threads may share one; they look one after another."""

    def __init__(self, layout: Layout, known: Mapping[str, Known] | None = None) -> None:
        """``known``: by lane, what was counted earlier, if anybody wrote it down; see ``Folders``."""
        self._layout = layout
        self._lanes = {lane: self._folders(lane, buckets) for lane, buckets in (known or {}).items()}
        self._looking = threading.Lock()

    def look(self) -> tuple[LaneView, ...]:
        """All lanes with waiting tasks, by name."""
        now_s = time.time()
        return tuple(self._view(lane, waiting, now_s) for lane, waiting in self.waiting().items())

    def waiting(self) -> dict[str, LaneWaiting]:
        """All lanes with waiting tasks, by name."""
        with self._looking:
            lanes = sorted(list_lanes(self._layout))
            self._lanes = {lane: self._lanes.get(lane) or self._folders(lane) for lane in lanes}
            return {lane: found for lane, folders in self._lanes.items() if (found := self._lane(lane, folders)) is not None}

    def known(self) -> dict[str, Known]:
        """By lane, what was counted at the last look."""
        return {lane: folders.known for lane, folders in self._lanes.items()}

    def _folders(self, lane: str, known: Known | None = None) -> Folders:
        return Folders(self._layout.lane(lane), count_waiting, known)

    def _lane(self, lane: str, folders: Folders) -> LaneWaiting | None:
        found = folders.look(sorted_buckets(self._layout.lane(lane)))
        tasks = sum(folder.files for folder in found.values())
        oldest_s = min((folder.oldest_s for folder in found.values() if folder.oldest_s is not None), default=None)
        return None if oldest_s is None else LaneWaiting(tasks, oldest_s, tuple(found))

    def _view(self, lane: str, waiting: LaneWaiting, now_s: float) -> LaneView:
        parsed = parse_lane(lane)
        assert parsed is not None, "only lanes are looked at"
        task_class, argument = parsed
        return LaneView(
            lane=lane,
            task_class=task_class,
            model=argument if task_class is TaskClass.LLM else None,
            target_worker=argument if task_class is TaskClass.RESOURCE else None,
            pending=waiting.tasks,
            oldest_wait_s=max(0.0, now_s - waiting.oldest_s),
        )
