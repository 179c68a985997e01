"""Whose results a task that was let go still needs: on record before it moves to its lane, so that no purge takes them.

While a task lies in ``blocked`` its file says what it waits for. Once it is in its lane nobody could tell without reading
all that waits; so the brain notes it, for tasks whose request asks for results, in one append-only file.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

import msgspec

from swarm.core.task import TERMINAL
from swarm.taskqueue.layout import Layout
from swarm.taskqueue.storage import FILE_MODE, Storage, write_all

COMPACT_BYTES = 4 << 20
_Line = tuple[str, tuple[str, ...]]
_decode = msgspec.json.Decoder(_Line).decode
_encode = msgspec.json.Encoder().encode


def needs_path(layout: Layout) -> str:
    """The ledger."""
    return f"{layout.sessions}/needs.jsonl"


def read_needs(layout: Layout) -> dict[str, tuple[str, ...]]:
    """Ids needed, by the id of the task that needs them, ended or not; a torn last line is passed over."""
    try:
        with open(needs_path(layout), "rb") as file:
            data = file.read()
    except FileNotFoundError:
        return {}
    needs: dict[str, tuple[str, ...]] = {}
    for line in data.split(b"\n"):
        if line:
            try:
                task_id, wanted = _decode(line)
            except ValueError:
                continue  # torn by a death; its task had not been let go yet
            needs[task_id] = wanted
    return needs


def still_needed(layout: Layout) -> frozenset[str]:
    """Ids whose results tasks need that were let go and have not ended."""
    needs = read_needs(layout)
    return frozenset(wanted for task_id, ids in needs.items() if not _ended(layout, task_id) for wanted in ids)


class NeedLedger:
    """For the brain's one thread."""

    def __init__(self, layout: Layout, storage: Storage) -> None:
        self._layout = layout
        self._storage = storage
        self._known: set[str] = set()
        self._size = -1

    def known(self, task_id: str) -> bool:
        """Whether it is on record already."""
        return task_id in self._known

    def note(self, needs: Mapping[str, tuple[str, ...]]) -> None:
        """Put these on record with one flush. Raises ``OSError``; then none of them counts."""
        if not needs:
            return
        if self._size < 0 or self._size > COMPACT_BYTES:
            self._compact()
        data = _lines(needs.items())
        fd = os.open(needs_path(self._layout), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
        try:
            write_all(fd, data, self._size)
            if self._storage.full:
                os.fsync(fd)
        finally:
            os.close(fd)
        self._size += len(data)
        self._known.update(needs)

    def _compact(self) -> None:
        """Write it anew without what has ended; also what makes a line torn by an earlier death harmless."""
        kept = {task_id: ids for task_id, ids in read_needs(self._layout).items() if not _ended(self._layout, task_id)}
        data = _lines(kept.items())
        self._storage.replace(needs_path(self._layout), data, durable=True)
        self._known, self._size = set(kept), len(data)


def _lines(needs: Iterable[_Line]) -> bytes:
    return b"".join(_encode(line) + b"\n" for line in needs)


def _ended(layout: Layout, task_id: str) -> bool:
    return any(os.access(layout.terminal(state, task_id), os.F_OK) for state in TERMINAL)
