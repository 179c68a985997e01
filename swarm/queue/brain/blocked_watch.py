"""Which files lie in ``blocked/``, told by what changed: through inotify where there is any, else by listing.

Files of one submitter appear in order. A listing made meanwhile may show a later one and not an earlier one; what was in a
listing that had ended before the next one began has all its forerunners in the two.
"""

from __future__ import annotations

import os
import time
import weakref
from collections.abc import Iterator

import msgspec

from swarm.filesystem.entries import list_names
from swarm.queue.layout import Layout
from swarm.queue.storage import inotify

RELIST_S = 60.0
"""With inotify it is listed all the same this often: files that another host put there are told by nobody."""


class Changes(msgspec.Struct, frozen=True):
    """What is different since the last call."""

    added: tuple[str, ...]
    """Also names that went and came back: their content may be another."""
    removed: tuple[str, ...]
    unsettled: frozenset[str]
    """Seen only in the last listing: a file before one of these may not be known yet."""


class BlockedNames:
    """Follows the names; for one thread. ``close`` gives the descriptor back."""

    def __init__(self, layout: Layout, *, watch: bool) -> None:
        self._folder = layout.blocked
        self._names: set[str] = set()
        self._fd = _watch(layout.blocked) if watch else None
        self._closing = None if self._fd is None else weakref.finalize(self, os.close, self._fd)
        self._relist_s = float("-inf")

    def changes(self) -> Changes:
        """Costs what changed with inotify; else one or two listings. Raises ``OSError``."""
        told: dict[str, bool] = {}
        whole = self._fd is None or time.monotonic() >= self._relist_s
        if self._fd is not None:
            for name in self._told():
                if name[0] is None:
                    whole = True
                else:
                    told[name[0]] = name[1]
        if not whole:
            return self._apply(told)
        return self._listed(told)

    def close(self) -> None:
        """Give the inotify descriptor back."""
        if self._closing is not None:
            self._closing()
        self._fd = None

    def _apply(self, told: dict[str, bool]) -> Changes:
        added = tuple(name for name, there in told.items() if there)
        removed = tuple(name for name, there in told.items() if not there and name in self._names)
        self._names.difference_update(removed)
        self._names.update(added)
        return Changes(added, removed, frozenset())

    def _listed(self, told: dict[str, bool]) -> Changes:
        self._relist_s = float("-inf")  # until it has come to its end
        first = set(list_names(self._folder))
        fresh = first - self._names
        if self._fd is None:
            now = set(list_names(self._folder)) if fresh else first
            unsettled = frozenset(now - first - self._names)
        else:
            now, unsettled = first, frozenset()
            for name, there in self._told():  # what came during the listing
                if name is not None:
                    (now.add if there else now.discard)(name)
        again = {name for name, there in told.items() if there}
        added = (now - self._names) | (again & now)
        removed = self._names - now
        self._names = now
        self._relist_s = time.monotonic() + RELIST_S
        return Changes(tuple(added), tuple(removed), unsettled)

    def _told(self) -> Iterator[tuple[str | None, bool]]:
        """(name, whether it is there now) in the order in which it happened; (None, …) when events were lost."""
        assert self._fd is not None
        for event in inotify.told(self._fd):
            yield event.name, event.there


def _watch(folder: str) -> int | None:
    fd = inotify.opened()
    if fd is not None and inotify.add(fd, folder, inotify.GONE | inotify.THERE) is None:
        os.close(fd)
        return None
    return fd
