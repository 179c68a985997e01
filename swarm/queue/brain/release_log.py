"""Append logs written before a blocked task is released: session turns, result references.

The brain alone writes the two files. While a task lies in ``blocked`` its file says what it waits for. Once it is in its
lane, only reading all waiting tasks would show it, so it is recorded before the task moves:

* ``turns.jsonl``: by session, the task released last. A brain that starts knows which task of a session is under way.
* ``needs.jsonl``: by task, the tasks whose results its request asks for. No purge takes those.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Generic, TypeVar

import msgspec

from swarm.queue.brain.append_log import AppendLog, read_log
from swarm.queue.layout import Layout
from swarm.queue.lookup import ended_in
from swarm.queue.storage import Storage

Noted = TypeVar("Noted")
_decode_turn = msgspec.json.Decoder(tuple[str, str]).decode
_decode_needs = msgspec.json.Decoder(tuple[str, tuple[str, ...]]).decode


def turns_path(layout: Layout) -> str:
    """Where session turns are noted."""
    return f"{layout.sessions}/turns.jsonl"


def needs_path(layout: Layout) -> str:
    """Where result references are noted."""
    return f"{layout.sessions}/needs.jsonl"


def read_turns(layout: Layout) -> dict[str, str]:
    """The task released last, by session."""
    return read_log(turns_path(layout), _decode_turn)


def read_needs(layout: Layout) -> dict[str, tuple[str, ...]]:
    """Ids of results asked for, by the id of the task that asks, ended or not."""
    return read_log(needs_path(layout), _decode_needs)


def still_needed(layout: Layout) -> frozenset[str]:
    """Ids whose results are asked for by tasks that were released and have not ended."""
    needs = read_needs(layout)
    return frozenset(wanted for task_id, ids in needs.items() if ended_in(layout, task_id) is None for wanted in ids)


class ReleaseLog(Generic[Noted]):
    """One of the two; for the brain's one thread. It is read at its first use."""

    def __init__(self, file: AppendLog, read: Callable[[], dict[str, Noted]], over: Callable[[str, Noted], bool]) -> None:
        """``over(key, noted)``: what needs no record any more is dropped when the file is compacted."""
        self._file = file
        self._read = read
        self._over = over
        self._known: dict[str, Noted] | None = None

    def get(self, key: str) -> Noted | None:
        """What is on record for this key."""
        if self._known is None:
            self._known = self._read()
        return self._known.get(key)

    def note(self, more: Mapping[str, Noted]) -> None:
        """Put these on record with one flush. Raises ``OSError``; then none of them counts."""
        known = self._read() if self._known is None else self._known
        if self._file.due:
            known = {key: noted for key, noted in known.items() if not self._over(key, noted)}
            self._file.rewrite(known)
        self._file.append(more)
        self._known = {**known, **more}


def turn_log(layout: Layout, storage: Storage, has_ended: Callable[[str], bool]) -> ReleaseLog[str]:
    """The session turns; those of tasks that have ended need no record."""
    file = AppendLog(turns_path(layout), storage)
    return ReleaseLog(file, lambda: read_turns(layout), lambda _session, task_id: has_ended(task_id))


def needs_log(layout: Layout, storage: Storage) -> ReleaseLog[tuple[str, ...]]:
    """The result references; those of tasks that have ended need no record."""
    file = AppendLog(needs_path(layout), storage)
    return ReleaseLog(file, lambda: read_needs(layout), lambda task_id, _ids: ended_in(layout, task_id) is not None)
