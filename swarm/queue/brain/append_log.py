"""An append-only log of one writer: one flush per write, compacted when long.

Each line is a pair of a key and its value; of several with the same key the last counts.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TypeVar

import msgspec

from swarm.errors import OddEntry
from swarm.filesystem.durable import sync_fd
from swarm.filesystem.entries import open_file
from swarm.queue.storage import Storage, write_all

COMPACT_BYTES = 4 << 20
_encode = msgspec.json.Encoder().encode
Noted = TypeVar("Noted")


def read_log(path: str, decode: Callable[[bytes], tuple[str, Noted]]) -> dict[str, Noted]:
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


class AppendLog:
    """For one thread of the one process that writes it."""

    def __init__(self, path: str, storage: Storage) -> None:
        self._path = path
        self._storage = storage
        self._size = -1

    @property
    def due(self) -> bool:
        """Whether it is to be written anew before the next line: it is large, or may end in a line torn by a death."""
        return self._size < 0 or self._size > COMPACT_BYTES

    def rewrite(self, noted: Mapping[str, object]) -> None:
        """Replace all of it atomically. Raises ``OSError``; then it is as it was."""
        data = _lines(noted)
        self._storage.replace(self._path, data, durable=True)
        self._size = len(data)

    def append(self, noted: Mapping[str, object]) -> None:
        """Put these on record with one flush; it must not be ``due``. Raises ``OSError``; then none counts."""
        data = _lines(noted)
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
