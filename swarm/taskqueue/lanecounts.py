"""How many tasks wait in each lane, kept up to date at the cost of what changed.

A bucket is listed again only when its directory's time moved: with a million waiting, a thousand ``stat`` calls and a few
listings a turn.
"""

from __future__ import annotations

import os
import time
from typing import NamedTuple

from swarm.core.lanes import parse_lane
from swarm.core.snapshot import LaneView
from swarm.core.task import TaskClass
from swarm.taskqueue.buckets import list_names, sorted_buckets
from swarm.taskqueue.layout import GRAIN_NS, Layout, parse_task_file
from swarm.taskqueue.lookup import oldest_of, task_names

_HEAD = 64


class _Bucket(NamedTuple):
    changed_ns: int
    waiting: int
    oldest_s: float


class LaneCounts:
    """Remembers buckets between looks."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._known: dict[str, dict[str, _Bucket]] = {}

    def look(self) -> tuple[LaneView, ...]:
        """All lanes with waiting tasks, by name."""
        views = []
        lanes = [n for n in sorted(list_names(self._layout.pending)) if parse_lane(n) is not None]
        self._known = {lane: self._known.get(lane, {}) for lane in lanes}
        now_s = time.time()
        for lane in lanes:
            view = self._lane(lane, now_s)
            if view is not None:
                views.append(view)
        return tuple(views)

    def _lane(self, lane: str, now_s: float) -> LaneView | None:
        lane_path = self._layout.lane(lane)
        known = self._known[lane]
        names = sorted_buckets(lane_path)
        fresh = {n: b for n in names if (b := self._bucket(f"{lane_path}/{n}", known.get(n))) is not None}
        self._known[lane] = fresh
        waiting = sum(b.waiting for b in fresh.values())
        parsed = parse_lane(lane)
        if not waiting or parsed is None:
            return None
        task_class, argument = parsed
        return LaneView(
            lane=lane,
            task_class=task_class,
            model=argument if task_class is TaskClass.LLM else None,
            target_worker=argument if task_class is TaskClass.RESOURCE else None,
            pending=waiting,
            oldest_wait_s=max(0.0, now_s - min(b.oldest_s for b in fresh.values() if b.waiting)),
            first_ids=self._head(lane_path, names) if task_class is TaskClass.RESOURCE else (),
        )

    def _bucket(self, path: str, known: _Bucket | None) -> _Bucket | None:
        try:
            changed_ns = os.stat(path).st_mtime_ns
        except FileNotFoundError:
            return None
        if known is not None and known.changed_ns == changed_ns:
            return known
        names = task_names(path)
        if time.time_ns() - changed_ns < GRAIN_NS:
            changed_ns = -1  # a second change may hide behind the same time: look again next turn
        return _Bucket(changed_ns, len(names), oldest_of(path, names) if names else 0.0)

    def _head(self, lane_path: str, buckets: list[str]) -> tuple[str, ...]:
        ids: list[str] = []
        for bucket in buckets:
            for name in sorted(task_names(f"{lane_path}/{bucket}")):
                parsed = parse_task_file(name)
                if parsed:
                    ids.append(parsed.task_id)
            if len(ids) >= _HEAD:
                break
        return tuple(ids[:_HEAD])
