"""The quarantine, ``corrupt/``: files that are no task or have no place, each with a reason.

Nothing in it is ever deleted. A task that waits for one in quarantine waits in vain: ``CorruptTasks`` knows those ids.
"""

from __future__ import annotations

import logging
import re

import msgspec

from swarm.filesystem.entries import DirStamp, list_names, read_file, stamp_of
from swarm.queue import lookup
from swarm.queue.layout import Layout
from swarm.queue.storage import REASON

log = logging.getLogger(__name__)
_REASON_BYTES = 64 << 10
_NAME_RE = re.compile(r"^(?P<id>[A-Za-z0-9][A-Za-z0-9_-]{0,63})(?:\.\d{1,6})?\.json(?:\.\d{1,4})?\Z")
"""A task's file, or a drop-in, under the name it was quarantined with."""


class QuarantinedFile(msgspec.Struct, frozen=True):
    """A task's file in ``corrupt/``."""

    name: str
    reason: str

    @property
    def words(self) -> str:
        """In words."""
        return f"is in corrupt/{self.name}{f': {self.reason}' if self.reason else ''}"


def find_quarantined(layout: Layout, task_id: str) -> QuarantinedFile | None:
    """The file of a task that was quarantined and is nowhere else; None for any other."""
    names = [name for name in list_names(layout.corrupt) if task_of(name) == task_id]
    if not names or lookup.find(layout, task_id) is not None:
        return None
    return read_quarantined(layout, max(names))


def read_quarantined(layout: Layout, name: str) -> QuarantinedFile:
    """What lies there and why; without its reason where that cannot be read."""
    try:
        reason = read_file(f"{layout.corrupt}/{name}{REASON}", _REASON_BYTES).decode(errors="replace").strip()
    except (FileNotFoundError, ValueError):
        reason = ""
    return QuarantinedFile(name, reason)


def task_of(name: str) -> str | None:
    """The task whose file this name in ``corrupt/`` was; None for what never was one's."""
    found = _NAME_RE.match(name)
    return found["id"] if found else None


class CorruptTasks:
    """Which tasks lie in ``corrupt/``, at the price of one ``stat`` while nothing is quarantined; for one thread."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._seen: DirStamp | None = None
        self._names: dict[str, str] = {}

    def fresh(self) -> frozenset[str]:
        """Look again; the ids that were not there at the last look."""
        now = stamp_of(self._layout.corrupt)
        if now is None or now.unchanged_since(self._seen):
            return frozenset()
        before = self._names
        self._names = {task_id: name for name in list_names(self._layout.corrupt) if (task_id := task_of(name)) is not None}
        self._seen = now
        return frozenset(self._names.keys() - before.keys())

    def holds(self, task_id: str) -> bool:
        """Whether that is all there is of this task: a second file of one that goes on says nothing about it."""
        return task_id in self._names and lookup.find(self._layout, task_id) is None
