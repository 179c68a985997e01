"""One walk through a shard of finished documents, in bounded steps.

* It counts, finds the oldest, and removes what is old.
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

from swarm.core.task import ID_RE, TERMINAL, TaskState
from swarm.filesystem.entries import DirStamp, stamp_of, status_of
from swarm.queue.layout import Layout

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
