"""Reads log files as entries, forwards or backwards, through rotations, merged by time.

* An entry is a line with what continues it (the rest of a traceback).
* Files in another format, such as a model server's, are read as well: their lines take the time they carry, else that of
  the line before.
* What a process wrote to standard error (``<name>.err``) carries no time. Its last lines were written when it died, and
  it is started again right after that: so they take the time of the next start, which is noted in the file, and those of
  the last life the time of the file itself.
"""

from __future__ import annotations

import heapq
import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from itertools import islice

import msgspec

from swarm.errors import OddEntry
from swarm.filesystem.entries import is_file, list_names, open_file
from swarm.plain_text import lines as shown_lines
from swarm.runtime.logging import CONTINUATION

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
BLOCK_BYTES = 1 << 16
MAX_LINE_BYTES = 1 << 16

_OURS = re.compile(r"\[(\d{4}-\d\d-\d\dT[^\]]{12,24})\] \[([^\]]*)\] (\w+) +(.*)$")
_SERVER_TIME = re.compile(r"\btime=(\S+)|^\[GIN\] (\d{4}/\d\d/\d\d - \d\d:\d\d:\d\d)")
_SERVER_LEVEL = re.compile(r"\blevel=(\w+)")
_ROTATED = re.compile(r"(.+?)(?:\.log|(\.err))(?:\.(\d+))?$")
ERR = ".err"
"""End of the name of a log that holds what a process wrote to standard error."""
STDERR_BYTES = 1 << 18
"""Of such a file only its end is shown."""
STARTED = "started; what it says on standard error follows"
_FATAL = ("Traceback (most", "Fatal Python error")


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One record of one log."""

    time_s: float
    """Seconds since the epoch; 0 where nothing tells."""
    source: str
    """The log's name: ``brain``, ``worker-1``, ``ollama-worker-1``."""
    level: str | None
    lines: tuple[str, ...]
    continues: bool = False
    """It is the rest of a record whose first line was read elsewhere."""


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """Which entries to show."""

    level: str | None = None
    """This one and worse; entries without a level are kept."""
    since_s: float = 0.0
    pattern: re.Pattern[str] | None = None

    def __call__(self, entry: Entry) -> bool:
        """Whether this entry is asked for."""
        if self.level is not None and entry.level in LEVELS and LEVELS.index(entry.level) < LEVELS.index(self.level):
            return False
        if entry.time_s < self.since_s:
            return False
        return self.pattern is None or any(self.pattern.search(line) for line in entry.lines)


def sources(folder: str) -> dict[str, list[str]]:
    """The files of each log, oldest first: ``worker-1`` -> ``…/worker-1.log.1``, ``…/worker-1.log``.

    ``worker-1.err`` -> ``…/worker-1.err``: what it said on standard error.
    """
    found: dict[str, list[tuple[int, str]]] = {}
    for name in list_names(folder):
        if (hit := _ROTATED.fullmatch(name)) and is_file(f"{folder}/{name}"):
            found.setdefault(hit[1] + (hit[2] or ""), []).append((int(hit[3] or 0), f"{folder}/{name}"))
    return {name: [path for _, path in sorted(files, reverse=True)] for name, files in sorted(found.items())}


def parse(line: str, source: str, before_s: float) -> Entry:
    """One line; ``before_s`` is the time of the line before it, for lines that carry none."""
    if hit := _OURS.match(line):
        time_s = _seconds(hit[1], before_s)
        more = hit[4].startswith(CONTINUATION)
        return Entry(time_s=time_s, source=source, level=_level(hit[3]), lines=(line,), continues=more)
    time = _SERVER_TIME.search(line)
    named = _SERVER_LEVEL.search(line)
    time_s = _seconds((time[1] or time[2].replace("/", "-").replace(" - ", "T")).strip('"'), before_s) if time else before_s
    return Entry(time_s=time_s, source=source, level=_level(named[1]) if named else None, lines=(line,))


def _level(name: str) -> str:
    return {"WARN": "WARNING", "FATAL": "CRITICAL"}.get(name, name)


def _seconds(text: str, otherwise: float) -> float:
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return otherwise


def records(entries: Iterable[Entry]) -> Iterator[Entry]:
    """Entries with their continuation lines, in reading order."""
    current: Entry | None = None
    for entry in entries:
        if current is not None and entry.continues:
            current = msgspec.structs.replace(current, lines=current.lines + entry.lines)
            continue
        if current is not None:
            yield current
        current = entry
    if current is not None:
        yield current


def forwards(source: str, paths: Iterable[str], since_s: float = 0.0) -> Iterator[Entry]:
    """All records of one log, oldest first; rotated files last written before ``since_s`` are not opened."""
    return records(_lines_forwards(source, paths, since_s))


def _lines_forwards(source: str, paths: Iterable[str], since_s: float) -> Iterator[Entry]:
    before_s = 0.0
    for path in paths:
        try:
            with open(open_file(path), "rb") as file:
                if os.fstat(file.fileno()).st_mtime < since_s:
                    continue
                while line := file.readline(MAX_LINE_BYTES):
                    entry = parse(text_of(line), source, before_s)
                    before_s = entry.time_s
                    yield entry
        except (FileNotFoundError, OddEntry):
            continue  # rotated away since it was listed, or none that may be read


def merged(streams: Iterable[Iterator[Entry]]) -> Iterator[Entry]:
    """Several logs as one, by time; lines of one log keep their order even where its clock was set back."""
    return heapq.merge(*streams, key=lambda entry: entry.time_s)


def last(source: str, paths: list[str], number: int, wanted: Callable[[Entry], bool]) -> list[Entry]:
    """The last ``number`` wanted records of one log, oldest first, read from the end: costs what is shown, not the whole."""
    return list(islice(filter(wanted, _records_backwards(source, paths)), number))[::-1]


def history(
    folder: str,
    names: Sequence[str],
    wanted: Wanted,
    lines: int | None,
    record: Iterable[Entry] = (),
    *,
    rotated: bool = True,
) -> Iterator[Entry]:
    """What these logs hold (all, if none are named), with ``record`` merged into it.

    ``lines``: only the last of them; without ``rotated`` only the files that are still written to.
    """
    files = sources(folder) if os.path.isdir(folder) else {}
    streams: list[Iterator[Entry]] = [iter(record)]
    for name, every in files.items():
        if names and name not in names:
            continue
        paths = every if rotated else every[-1:]
        if name.endswith(ERR):
            streams.append(filter(wanted, stderr_entries(name, paths[-1])))
        elif lines is None:
            streams.append(filter(wanted, forwards(name, paths, wanted.since_s)))
        else:
            streams.append(iter(last(name, paths, lines, wanted)))
    entries = merged(streams)
    yield from entries if lines is None else deque(entries, maxlen=lines)


def stderr_entries(source: str, path: str) -> list[Entry]:
    """What a process wrote to standard error, oldest first: one record for each life that wrote anything."""
    try:
        with open(open_file(path), "rb") as file:
            status = os.fstat(file.fileno())
            file.seek(max(0, status.st_size - STDERR_BYTES))
            lines = [text_of(line) for line in file.read().split(b"\n") if line.strip()]
    except (FileNotFoundError, OddEntry):
        return []
    found: list[Entry] = []
    written: list[str] = []
    until_s = status.st_mtime
    for line in reversed(["", *lines]):
        start = parse(line, source, 0.0)
        if line and not is_start(start):
            written.insert(0, line)
            continue
        if written:
            level = "ERROR" if any(text.startswith(_FATAL) for text in written) else None
            found.insert(0, Entry(time_s=until_s, source=source, level=level, lines=tuple(written)))
        written, until_s = [], start.time_s
    return found


def is_start(entry: Entry) -> bool:
    """Whether this line records a start."""
    return entry.lines[0].endswith(STARTED)


def _records_backwards(source: str, paths: list[str]) -> Iterator[Entry]:
    rest: list[str] = []
    timeless: list[Entry] = []
    for path in reversed(paths):
        for line in _lines_backwards(path):
            entry = parse(line, source, 0.0)
            if entry.continues:
                rest.append(line)
                continue
            whole = msgspec.structs.replace(entry, lines=(line, *reversed(rest)))
            rest.clear()
            if whole.time_s == 0.0:
                timeless.append(whole)  # takes the time of the line above it, which is read next
                continue
            yield from (msgspec.structs.replace(late, time_s=whole.time_s) for late in timeless)
            timeless.clear()
            yield whole
    yield from timeless


def _lines_backwards(path: str) -> Iterator[str]:
    try:
        file = open(open_file(path), "rb")  # noqa: SIM115  (the with follows; only the opening may fail)
    except (FileNotFoundError, OddEntry):
        return
    with file:
        position = file.seek(0, os.SEEK_END)
        tail = b""
        while position:
            size = min(BLOCK_BYTES, position)
            position -= size
            file.seek(position)
            head, *lines = (file.read(size) + tail).split(b"\n")
            yield from (text_of(line) for line in reversed(lines) if line)
            tail = head
        if tail:
            yield text_of(tail)


def text_of(line: bytes) -> str:
    """A line of a file as text, whatever bytes are in it, without its end and without control characters."""
    return shown_lines(line.rstrip(b"\r\n").decode("utf-8", "backslashreplace"))
