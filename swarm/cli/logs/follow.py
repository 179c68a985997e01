"""Following logs: what was added since the last look, through rotation, truncation and files that appear.

The telling lines at the end of a log: the last traceback, the last words, complaints that still stand.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator
from datetime import datetime
from typing import BinaryIO

import msgspec

from swarm.cli.logs.log_files import ERR, MAX_LINE_BYTES, Entry, merged, parse, records, sources, text_of
from swarm.core.doctor.evidence import Quote
from swarm.errors import OddEntry
from swarm.filesystem.entries import open_file
from swarm.plain_text import lines as shown_lines
from swarm.runtime.logging import CONTINUATION


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


TAIL_BYTES = 512 << 10
_HEADER = re.compile(r"\[(\d{4}-\d\d-\d\dT[^\]]{12,24})\] \[[^\]]*\] (\w+) +(.*)$")
_TRACEBACK = "Traceback (most recent call last):"
_INDENTED = re.compile(r"[ |+\t]")
_TEXT_CHARS = 400


class Line(msgspec.Struct, frozen=True):
    """One line, its header taken off."""

    number: int
    text: str
    level: str
    """Empty where the line has no header of ours (stderr, a model server's log)."""
    at_s: float | None
    raw: str


class Tail:
    """The end of one log file; empty where there is none."""

    def __init__(self, path: str, now_s: float) -> None:
        self.path = path
        self._now_s = now_s
        self.lines: tuple[Line, ...] = ()
        self._written_s: float | None = None
        try:
            with open(open_file(path), "rb") as file:
                status = os.fstat(file.fileno())
                self._written_s = status.st_mtime
                self.lines = tuple(_lines(file, status.st_size))
        except (FileNotFoundError, PermissionError, OddEntry):
            return

    def quote(self, line: Line, *, raw: bool = False) -> Quote:
        """A line as evidence."""
        since_s = line.at_s if line.at_s is not None else self._written_s
        age_s = None if since_s is None else max(0.0, self._now_s - since_s)
        return Quote(path=self.path, line=line.number, text=(line.raw if raw else line.text)[:_TEXT_CHARS], age_s=age_s)

    def crash(self) -> Quote | None:
        """The last line of the last traceback: the exception itself."""
        start = next((i for i in range(len(self.lines) - 1, -1, -1) if _TRACEBACK in self.lines[i].text), None)
        if start is None:
            return None
        for line in self.lines[start + 1 :]:
            text = line.text.removeprefix(CONTINUATION)
            if text and not _INDENTED.match(text):
                return self.quote(msgspec.structs.replace(line, text=text))
        return None

    def last(self) -> Quote | None:
        """The very last line."""
        written = [line for line in self.lines if line.raw.strip()]
        return self.quote(written[-1], raw=True) if written else None

    def last_match(self, pattern: str) -> Quote | None:
        """The last line that matches."""
        found = next((line for line in reversed(self.lines) if re.search(pattern, line.text)), None)
        return self.quote(found, raw=True) if found is not None else None

    def standing(self, begins: str, ends: str) -> Quote | None:
        """The last line that matches ``begins``, unless one that matches ``ends`` came after it."""
        found = next((line for line in reversed(self.lines) if re.search(f"{begins}|{ends}", line.text)), None)
        return None if found is None or re.search(ends, found.text) else self.quote(found, raw=True)


def _lines(file: BinaryIO, size: int) -> Iterator[Line]:
    """The last lines, numbered as in the whole file."""
    start = max(0, size - TAIL_BYTES)
    number = 1 + sum(chunk.count(b"\n") for chunk in _chunks(file, start))
    for index, raw in enumerate(file.read(TAIL_BYTES).split(b"\n")):
        text = shown_lines(raw.decode("utf-8", "backslashreplace"))
        head = _HEADER.match(text)
        at_s = _seconds(head[1]) if head else None
        yield Line(number + index, head[3] if head else text, head[2] if head else "", at_s, text)


def _chunks(file: BinaryIO, end: int) -> Iterator[bytes]:
    left = end
    while left > 0 and (chunk := file.read(min(left, 1 << 20))):
        left -= len(chunk)
        yield chunk


def _seconds(text: str) -> float | None:
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return None
