"""The lists of a batch: item keys with their task ids (``.items``), and the task ids in input order (``.order``)."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from swarm.core.task import ID_RE
from swarm.errors import OddEntry
from swarm.filesystem import temporary
from swarm.filesystem.durable import sync_fd
from swarm.filesystem.entries import open_file
from swarm.queue.storage import Storage, write_all


class Items:
    """Pairs of item key and task id, of all submissions so far."""

    def __init__(self, path: str, storage: Storage) -> None:
        self._path = path
        self._storage = storage

    def __iter__(self) -> Iterator[tuple[str, str]]:
        """The pairs, none for a batch never seen; torn and damaged lines are passed over."""
        for line in whole_lines(self._path):
            key, _, task_id = line.partition(" ")
            if ID_RE.match(task_id):
                yield key, task_id

    def add(self, pairs: Iterable[tuple[str, str]]) -> None:
        """Put these on record, durably. Raises ``OSError``."""
        lines = "".join(f"{key} {task_id}\n" for key, task_id in pairs).encode()
        if not lines:
            return
        fd = self._storage.open_own(self._path, os.O_RDWR | os.O_CREAT)
        try:
            end = os.fstat(fd).st_size
            while end and os.pread(fd, 1, end - 1) != b"\n":  # a line torn by an earlier death
                end -= 1
            write_all(fd, lines, end)
            os.ftruncate(fd, end + len(lines))
            if self._storage.full:
                sync_fd(fd)
        finally:
            os.close(fd)
        self._storage.flush(os.path.dirname(self._path))


def whole_lines(path: str) -> Iterator[str]:
    """All but a torn one; none of a file that is not there."""
    try:
        with open(open_file(path), encoding="ascii", errors="replace") as file:
            yield from (line[:-1] for line in file if line.endswith("\n"))
    except (FileNotFoundError, OddEntry):
        return


@contextmanager
def new_order(path: str, storage: Storage) -> Iterator[NewOrder]:
    """The order file, put in place when the block ends well: when the whole input went through."""
    with temporary.replacement(path, durable=storage.full) as fd:  # else a manifest could say that all is in an empty order
        yield NewOrder(fd)
        storage.make_way(path)


class NewOrder:
    """Task ids on their way into the order file."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._size = 0
        self._lines: list[str] = []
        self.count = 0

    def add(self, task_id: str) -> None:
        """The next one; held until ``write``."""
        self._lines.append(task_id + "\n")
        self.count += 1

    def replace(self, task_ids: Iterable[str]) -> None:
        """Write these instead of all that was added so far."""
        os.ftruncate(self._fd, 0)
        self._size = self.count = 0
        for task_id in task_ids:
            self.add(task_id)
        self.write()

    def add_missing(self, task_ids: Iterable[str]) -> None:
        """Write those of these that are not in it yet behind all others."""
        wanted = dict.fromkeys(task_ids)
        if wanted:
            for task_id in os.pread(self._fd, self._size, 0).decode().split("\n"):
                wanted.pop(task_id, None)
        for task_id in wanted:
            self.add(task_id)
        self.write()

    def write(self) -> None:
        """Write out what was added."""
        data = "".join(self._lines).encode()
        self._lines.clear()
        write_all(self._fd, data, self._size)
        self._size += len(data)
