"""What lies in directories of tasks, counted again only where something came or went.

A count holds as long as its directory is the same and unchanged (see ``dir_stamp``).
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable

from swarm.core.placement.demand import is_load_id
from swarm.core.task import ID_PATTERN
from swarm.filesystem.entries import is_text, list_inside, status_of
from swarm.queue.layout import parse_task_file, time_of
from swarm.queue.storage.dir_stamp import DirStamp, stamp_of

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
    return len(names), oldest_of(path, names) if names else None


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


def oldest_of(folder: str, names: list[str]) -> float:
    """Since when the first of these waits: from its id, or from its file's time when the id was made elsewhere."""
    first = min(names)
    known = time_of(first.partition(".")[0])
    if known is not None:
        return known
    status = status_of(f"{folder}/{first}")
    return time.time() if status is None else status.st_mtime
