"""How many tasks wait in each lane, and how many files lie in any directory, at the cost of what changed.

A directory is listed again only when something came or went (see ``DirStamp``): with a million waiting, a thousand ``stat``
calls and a few listings a tick.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from swarm.core.lanes import parse_lane
from swarm.core.placement.demand import is_load_id
from swarm.core.snapshot import LaneView
from swarm.core.task import ID_PATTERN, TaskClass
from swarm.filesystem.entries import DirStamp, is_text, list_inside, stamp_of, status_of
from swarm.queue.layout import Layout, parse_task_file, time_of
from swarm.queue.submit.buckets import list_lanes, sorted_buckets

_ALL_TASKS = re.compile(rf"(?>{ID_PATTERN.strip('^$')}\.[0-9]{{1,6}}\.json/)*+").fullmatch
"""Names with a ``/`` behind each, all of them task files. One match for a bucket costs a tenth of a match for each name."""


class Folder(DirStamp, frozen=True, array_like=True):
    """One directory as it was when it was counted."""

    files: int
    oldest_s: float | None = None
    """Since when the first of its tasks waits, in seconds since the epoch; None where nobody asked, or nothing waits."""


Known = dict[str, Folder]
Counter = Callable[[str], tuple[int, float | None]]
"""Given a directory's path: how many files of the kind that is counted, and since when the oldest is there."""


class Folders:
    """The directories inside one directory. For one thread at a time."""

    def __init__(self, path: str, counter: Counter, known: Known | None = None) -> None:
        """``known``: from whoever looked earlier. Nothing in it is believed unless its directory is as it was."""
        self._path = path
        self._counter = counter
        self.known = known or {}

    def look(self, names: Iterable[str]) -> Known:
        """These directories now, without missing ones. What is not asked for is forgotten."""
        self.known = {name: folder for name in names if (folder := self._folder(name)) is not None and is_text(name)}
        return self.known

    def _folder(self, name: str) -> Folder | None:
        path = f"{self._path}/{name}"
        now = stamp_of(path)
        if now is None:
            return None
        known = self.known.get(name)
        if now.unchanged_since(known):
            return known
        return Folder(now.inode, now.changed_ns, now.quiet_ns, *self._counter(path))


def count_waiting(path: str) -> tuple[int, float | None]:
    """Tasks in a bucket, and since when the first of them waits."""
    names = task_names(path)
    return len(names), waits_since_s(path, min(names)) if names else None


def count_documents(path: str) -> tuple[int, None]:
    """Finished documents in a shard; loads that the brain inserted are no tasks of anybody's."""
    names = (n for n in list_inside(path) if n.endswith(".json") and n[0] != ".")
    return sum(1 for n in names if not is_load_id(n[:-5])), None


def task_names(folder: str) -> list[str]:
    """Names of task files in a directory, unsorted; what is foreign is left out."""
    names = list_inside(folder)
    if names and not _ALL_TASKS("/".join(names) + "/"):
        return [name for name in names if parse_task_file(name) is not None]
    return names


def waits_since_s(folder: str, name: str) -> float:
    """Since when it waits: from its id, or from its file's time when the id was made elsewhere."""
    made_s = time_of(name.partition(".")[0])
    if made_s is not None:
        return made_s
    status = status_of(f"{folder}/{name}")
    return time.time() if status is None else status.st_mtime


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
