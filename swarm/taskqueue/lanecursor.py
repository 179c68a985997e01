"""Where one worker reads in one lane: the buckets it knows and the names left in the first of them.

A cached listing is only a hint at what to try; the rename decides. The cursor looks again when the lane directory changed,
when a listing is used up, and when a change is so fresh that the clock's grain may hide a second one behind it.
"""

from __future__ import annotations

import os
import random
import time

from swarm.taskqueue.buckets import list_names, sorted_buckets
from swarm.taskqueue.layout import BUCKET_SIZE, GRAIN_NS, TaskName, parse_task_file

_CONTENDED_S = 0.05
"""Races lost so soon after one another mean that others claim here as fast as we do."""
_STRAYED_S = 1.0
"""How long a cursor that stepped aside stays away from the head, and how long a lost race is remembered."""
_NAME_S = 0.3e-6
_DEAR_S = 20e-6
_SPARE = 32
"""A listing of many buckets, dearer than ``_DEAR_S`` at ``_NAME_S`` each (measured), is spared while there are names left
and it is as fresh as so many times what it costs beyond: the hidden change that it looks for is rare."""


class LaneCursor:
    """Yields candidates of one lane, most urgent first; within a bucket oldest first, unless others claim there too.

    Who loses a race steps aside, further the sooner it happens again, so that many workers on one bucket each have a
    stretch of it to themselves; what was passed over comes after, and at the latest a second later.
    """

    def __init__(self, lane_path: str) -> None:
        self.lane_path = lane_path
        self._seen_ns = -1
        self._listed_ns = -1
        self._spared = False
        self._buckets: list[str] = []
        self._bucket = self._folder = ""
        self._names: list[str] = []
        self._barren: dict[str, int] = {}
        self._listed_s = 0.0
        self._window = 1
        self._lost_s = 0.0
        self._strayed_s = 0.0

    def next(self) -> tuple[str, str, TaskName] | None:
        """The next candidate as (bucket path, file name, id and attempt), or None when the lane shows none."""
        if not self._refresh():
            return None
        while True:
            while self._names:
                name = self._names.pop()
                parsed = parse_task_file(name)
                if parsed is not None:
                    return self._folder, name, parsed
            if not self._open_next() and not (self._spared and self._refresh()):
                return None

    def lost(self) -> None:
        """The candidate given last was gone: somebody else is at work here. Look anew, and step aside."""
        now_s = time.monotonic()
        since_s = now_s - self._lost_s
        if since_s < _CONTENDED_S:
            self._window = min(2 * self._window, BUCKET_SIZE)
        elif since_s > _STRAYED_S:
            self._window = 2
        self._lost_s = now_s
        self._names = []

    def _refresh(self) -> bool:
        """Follow changes of the lane directory; False if there is no lane."""
        try:
            changed_ns = os.stat(self.lane_path).st_mtime_ns
        except FileNotFoundError:
            self._seen_ns, self._buckets, self._names = -1, [], []
            return False
        if changed_ns != self._seen_ns:
            self._list(changed_ns)
        if self._strayed_s and self._names and time.monotonic() - self._strayed_s > _STRAYED_S:
            self._names = []
        return True

    def _list(self, changed_ns: int) -> None:
        now_s = time.monotonic()
        recent = now_s - self._listed_s < _SPARE * (len(self._buckets) * _NAME_S - _DEAR_S)
        self._spared = recent and bool(self._names) and changed_ns == self._listed_ns
        if self._spared:
            return
        settled = time.time_ns() - changed_ns > GRAIN_NS
        self._buckets = sorted_buckets(self.lane_path)
        self._listed_ns = changed_ns
        self._seen_ns = changed_ns if settled else -1  # a second change may hide behind the same time: look again
        self._listed_s = now_s
        if self._buckets and self._bucket > self._buckets[0]:
            self._names = []

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
                self._bucket, self._folder = bucket, path
                self._names = self._in_turn(sorted(names, reverse=True))
                return True
            self._leave_empty(bucket, path, changed_ns, foreign=bool(names))
        return False

    def _in_turn(self, names: list[str]) -> list[str]:
        """These names, last one first to be tried: from the head on, or from a little further if others work here."""
        if time.monotonic() - self._lost_s > _STRAYED_S:
            self._window = 1
        aside = random.randrange(min(self._window, len(names)))
        self._strayed_s = time.monotonic() if aside else 0.0
        return names[len(names) - aside :] + names[: len(names) - aside] if aside else names

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
