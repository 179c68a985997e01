"""Follows log files: new lines, through rotation, truncation and files that appear."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from typing import BinaryIO

from swarm.errors import OddEntry
from swarm.filesystem.entries import open_file
from swarm.views.logs.log_files import ERR, MAX_LINE_BYTES, Entry, merged, parse, records, sources, text_of


class Follower:
    """Call ``poll`` now and then; it returns the new records of all followed logs, by time."""

    def __init__(self, folder: str, names: Collection[str], *, from_start: bool = False) -> None:
        """Follow ``names`` (empty: all, also those that appear later); what is there is seen unless ``from_start``."""
        self._folder = folder
        self._names = frozenset(names)
        self._tails: dict[str, _Tail] = {}
        if not from_start:
            for name, paths in self._current():
                self._tails[name] = _Tail(name, paths, at_end=True)

    def poll(self) -> list[Entry]:
        """New records since the last call."""
        for name, paths in self._current():
            if name not in self._tails:
                self._tails[name] = _Tail(name, paths, at_end=False)
        return list(merged(records(tail.new()) for tail in self._tails.values()))

    def close(self) -> None:
        """Close all files."""
        for tail in self._tails.values():
            tail.close()

    def _current(self) -> Iterator[tuple[str, list[str]]]:
        if os.path.isdir(self._folder):
            for name, paths in sources(self._folder).items():
                if not self._names or name in self._names:
                    yield name, paths


class _Tail:
    """One log, read up to some point."""

    def __init__(self, name: str, paths: list[str], *, at_end: bool) -> None:
        self._name = name
        self._is_err = name.endswith(ERR)
        self._path = f"{os.path.dirname(paths[0])}/{name}{'' if self._is_err else '.log'}"
        self._file: BinaryIO | None = None
        self._partial = b""
        self._time_s = 0.0
        if at_end:
            self._open(self._path, os.SEEK_END)
        else:
            self._open(paths[0])  # it may have been rotated already since it appeared

    def new(self) -> Iterator[Entry]:
        """Lines added since the last call. The old file is read to its end before its successors are."""
        if self._file is None:
            self._open(self._path)
        if self._is_err and self._file is not None:
            self._time_s = os.fstat(self._file.fileno()).st_mtime  # these lines carry no time
        yield from self._rest()
        for path in self._successors():
            yield from self._rest()  # written between our last read and the rotation
            self._partial = b""
            self._open(path)
            yield from self._rest()

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _open(self, path: str, whence: int = os.SEEK_SET) -> None:
        self.close()
        try:
            self._file = open(open_file(path), "rb")  # noqa: SIM115  (kept open, so that a rotated file can be read to its end)
            self._file.seek(0, whence)
        except (FileNotFoundError, OddEntry):
            self._file = None

    def _successors(self) -> list[str]:
        """Files that came after the open one, oldest first: none, or rotated ones newer than it and the current one."""
        if self._file is None:
            return []
        mine = os.fstat(self._file.fileno())
        newer: list[str] = []
        for path in [self._path, *(f"{self._path}.{number}" for number in range(1, 100))]:
            try:
                if os.path.samestat(mine, os.lstat(path)):
                    return newer[::-1]
            except FileNotFoundError:
                break
            newer.append(path)
        return newer[:1]  # the open one was removed: go on with the current one alone

    def _rest(self) -> Iterator[Entry]:
        if self._file is None:
            return
        if os.fstat(self._file.fileno()).st_size < self._file.tell():  # truncated
            self._file.seek(0)
            self._partial = b""
        while data := self._file.readline(MAX_LINE_BYTES):
            self._partial += data
            if not data.endswith(b"\n") and len(self._partial) < MAX_LINE_BYTES:
                return
            line, self._partial = self._partial, b""
            entry = parse(text_of(line), self._name, self._time_s)
            self._time_s = entry.time_s
            yield entry
