"""Append logs written before a blocked task is released: session turns, result references.

The brain alone writes the two files. While a task lies in ``blocked`` its file says what it waits for. Once it is in its
lane, only reading all waiting tasks would show it, so it is recorded before the task moves:

* ``turns.jsonl``: by session, the task released last. A brain that starts knows which task of a session is under way.
* ``needs.jsonl``: by task, the tasks whose results its request asks for. No purge takes those.

Each line is a pair of a key and its value; of several with the same key the last counts.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Generic, TypeVar

import msgspec

from swarm.errors import OddEntry
from swarm.filesystem.durable import sync_fd
from swarm.filesystem.entries import open_file
from swarm.queue.layout import Layout
from swarm.queue.lookup import ended_in
from swarm.queue.storage import Storage, write_all

COMPACT_BYTES = 4 << 20
Noted = TypeVar("Noted")
Decode = Callable[[bytes], tuple[str, Noted]]
_encode = msgspec.json.Encoder().encode
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
    return _read(turns_path(layout), _decode_turn)


def read_needs(layout: Layout) -> dict[str, tuple[str, ...]]:
    """Ids of results asked for, by the id of the task that asks, ended or not."""
    return _read(needs_path(layout), _decode_needs)


def still_needed(layout: Layout) -> frozenset[str]:
    """Ids whose results are asked for by tasks that were released and have not ended."""
    needs = read_needs(layout)
    return frozenset(wanted for task_id, ids in needs.items() if ended_in(layout, task_id) is None for wanted in ids)


def _read(path: str, decode: Decode[Noted]) -> dict[str, Noted]:
    """What is noted, by key; a torn last line is passed over: what it was to say had not happened yet."""
    try:
        with open(open_file(path), "rb") as file:
            data = file.read()
    except (FileNotFoundError, OddEntry):  # what is odd makes way when the file is written
        return {}
    noted: dict[str, Noted] = {}
    for line in data.split(b"\n"):
        if line:
            try:
                key, what = decode(line)
            except ValueError:
                continue  # torn by a death
            noted[key] = what
    return noted


class ReleaseLog(Generic[Noted]):
    """One of the two; for the brain's one thread. It is read at its first use, and compacted when it is long."""

    def __init__(self, path: str, storage: Storage, decode: Decode[Noted], over: Callable[[str, Noted], bool]) -> None:
        """``over(key, noted)``: what needs no record any more is dropped when the file is compacted."""
        self._path = path
        self._storage = storage
        self._decode = decode
        self._over = over
        self._known: dict[str, Noted] | None = None
        self._size = -1

    def get(self, key: str) -> Noted | None:
        """What is on record for this key."""
        if self._known is None:
            self._known = _read(self._path, self._decode)
        return self._known.get(key)

    def note(self, more: Mapping[str, Noted]) -> None:
        """Put these on record with one flush. Raises ``OSError``; then none of them counts."""
        known = _read(self._path, self._decode) if self._known is None else self._known
        if self._size < 0 or self._size > COMPACT_BYTES:  # large, or it may end in a line torn by a death
            known = {key: noted for key, noted in known.items() if not self._over(key, noted)}
            data = _lines(known)
            self._storage.replace(self._path, data, durable=True)
            self._size = len(data)
        self._append(_lines(more))
        self._known = {**known, **more}

    def _append(self, data: bytes) -> None:
        fd = self._storage.open_own(self._path, os.O_WRONLY | os.O_CREAT)
        try:
            write_all(fd, data, self._size)
            if self._storage.full:
                sync_fd(fd)
        finally:
            os.close(fd)
        self._size += len(data)


def _lines(noted: Mapping[str, object]) -> bytes:
    return b"".join(_encode(pair) + b"\n" for pair in noted.items())


def turn_log(layout: Layout, storage: Storage, has_ended: Callable[[str], bool]) -> ReleaseLog[str]:
    """The session turns; those of tasks that have ended need no record."""
    return ReleaseLog(turns_path(layout), storage, _decode_turn, lambda _session, task_id: has_ended(task_id))


def needs_log(layout: Layout, storage: Storage) -> ReleaseLog[tuple[str, ...]]:
    """The result references; those of tasks that have ended need no record."""
    return ReleaseLog(
        needs_path(layout), storage, _decode_needs, lambda task_id, _ids: ended_in(layout, task_id) is not None
    )
