"""Where one worker reads in one lane: the buckets it knows and the names left in the first of them.

A cached listing is only a hint at what to try; the rename decides. The cursor looks again when the lane directory changed,
when a listing is used up, and when a change is so fresh that the clock's grain may hide a second one behind it.
"""

from __future__ import annotations

import os
import time

from swarm.taskqueue.buckets import list_names, sorted_buckets
from swarm.taskqueue.layout import GRAIN_NS, TaskName, parse_task_file


class LaneCursor:
    """Yields candidates of one lane, most urgent first."""

    def __init__(self, lane_path: str) -> None:
        self.lane_path = lane_path
        self._seen_ns = -1
        self._buckets: list[str] = []
        self._bucket = ""
        self._names: list[str] = []
        self._barren: dict[str, int] = {}

    def next(self) -> tuple[str, str, TaskName] | None:
        """The next candidate as (bucket path, file name, id and attempt), or None when the lane shows none."""
        if not self._refresh():
            return None
        while True:
            while self._names:
                name = self._names.pop()
                parsed = parse_task_file(name)
                if parsed is not None:
                    return f"{self.lane_path}/{self._bucket}", name, parsed
            if not self._open_next():
                return None

    def _refresh(self) -> bool:
        """Follow changes of the lane directory; False if there is no lane."""
        try:
            changed_ns = os.stat(self.lane_path).st_mtime_ns
        except FileNotFoundError:
            self._seen_ns, self._buckets, self._names = -1, [], []
            return False
        fresh = time.time_ns() - changed_ns < GRAIN_NS
        if changed_ns != self._seen_ns or fresh:
            self._seen_ns = changed_ns
            self._buckets = sorted_buckets(self.lane_path)
            if self._buckets and self._bucket > self._buckets[0]:
                self._names = []
        return True

    def _open_next(self) -> bool:
        """List the first bucket that has candidates; remove those found empty. False when there is none."""
        for bucket in self._buckets:
            path = f"{self.lane_path}/{bucket}"
            try:
                changed_ns = os.stat(path).st_mtime_ns
            except FileNotFoundError:
                continue
            if self._barren.get(bucket) == changed_ns:
                continue
            names = list_names(path)
            if any(parse_task_file(n) for n in names):
                self._bucket = bucket
                self._names = sorted(names, reverse=True)
                return True
            self._leave_empty(bucket, path, changed_ns, foreign=bool(names))
        return False

    def _leave_empty(self, bucket: str, path: str, changed_ns: int, *, foreign: bool) -> None:
        """An empty bucket goes away; one with only foreign files is not listed again until it changes."""
        if not foreign:
            try:
                os.rmdir(path)
            except OSError:
                self._seen_ns = -1  # somebody just put a task in, or took the bucket away: look again
                return
            self._barren.pop(bucket, None)
        elif time.time_ns() - changed_ns > GRAIN_NS:
            self._barren[bucket] = changed_ns
