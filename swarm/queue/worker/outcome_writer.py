"""Outcomes on their way into the files they belong to: written behind the bodies, kept open until they are durable."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from swarm.errors import OddEntry
from swarm.filesystem.entries import open_file
from swarm.queue.storage.files import Storage, write_all

Tail = tuple[str, int, bytes]
"""A file, an offset in it, and what it holds from there on."""


class Tails:
    """Files overwritten from an offset on, open within the block. Never makes one; raises ``OSError``.

    The bytes before the offset stay as they are, also in a torn write.
    """

    def __init__(self, storage: Storage, tails: Sequence[Tail]) -> None:
        self._storage = storage
        self._open: list[int] = []
        self.there: list[bool] = []
        """For each: whether its file was there."""
        try:
            for path, offset, tail in tails:
                self._write(path, offset, tail)
        except BaseException:
            self._close()
            raise

    def _write(self, path: str, offset: int, tail: bytes) -> None:
        try:
            fd = open_file(path, os.O_RDWR)
        except (FileNotFoundError, OddEntry):
            self.there.append(False)
            return
        self._open.append(fd)
        self.there.append(True)
        write_all(fd, tail, offset)
        end = offset + len(tail)
        if os.lseek(fd, 0, os.SEEK_END) > end:
            os.ftruncate(fd, end)

    def flush(self) -> None:
        """Make them durable, together (full durability only)."""
        self._storage.flush_files(self._open)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None) -> None:
        self._close()

    def _close(self) -> None:
        for fd in self._open:
            os.close(fd)


def rewrite_tail(storage: Storage, path: str, offset: int, tail: bytes) -> None:
    """Overwrite one file from an offset on, durably. Raises ``FileNotFoundError``, ``OSError``."""
    with Tails(storage, ((path, offset, tail),)) as written:
        if not written.there[0]:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        written.flush()
