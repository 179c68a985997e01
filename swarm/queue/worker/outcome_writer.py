"""Outcomes written behind the bodies of task files, which are kept open until they are durable."""

from __future__ import annotations

import errno
import os
from typing import Self

from swarm.errors import OddEntry
from swarm.filesystem.entries import open_file
from swarm.queue.storage.files import Storage, write_all


class OutcomeWriter:
    """Overwrites files from an offset on, and keeps them open until the end of the block. Never makes one.

    The bytes before the offset stay as they are, also in a torn write.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._open: list[int] = []

    def write(self, path: str, offset: int, data: bytes) -> bool:
        """Put ``data`` at the offset and end the file there; False: it is not there. Not durable yet. Raises ``OSError``."""
        try:
            fd = open_file(path, os.O_RDWR)
        except (FileNotFoundError, OddEntry):
            return False
        self._open.append(fd)
        write_all(fd, data, offset)
        end = offset + len(data)
        if os.lseek(fd, 0, os.SEEK_END) > end:
            os.ftruncate(fd, end)
        return True

    def flush(self) -> None:
        """Make them durable, together (full durability only). Raises ``OSError``."""
        self._storage.flush(*self._open)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_fault: object) -> None:
        for fd in self._open:
            os.close(fd)


def rewrite_tail(storage: Storage, path: str, offset: int, data: bytes) -> None:
    """Overwrite one file from an offset on, durably. Raises ``FileNotFoundError``, ``OSError``."""
    with OutcomeWriter(storage) as writer:
        if not writer.write(path, offset, data):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        writer.flush()
