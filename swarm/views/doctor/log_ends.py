"""Evidence from the end of a log: last traceback, last line, complaints still standing."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import BinaryIO

import msgspec

from swarm.clock import parse_iso
from swarm.core.doctor.evidence import Quote
from swarm.errors import OddEntry
from swarm.filesystem.entries import open_file
from swarm.plain_text import lines as shown_lines
from swarm.runtime.logging import CONTINUATION

TAIL_BYTES = 512 << 10
_HEADER = re.compile(r"\[(\d{4}-\d\d-\d\dT[^\]]{12,24})\] \[[^\]]*\] \w+ +(.*)$")
_TRACEBACK = "Traceback (most recent call last):"
_INDENTED = re.compile(r"[ |+\t]")
_TEXT_CHARS = 400


class LogLine(msgspec.Struct, frozen=True):
    """One line of a log, and its text without our header."""

    number: int
    raw: str
    text: str
    at_s: float | None


class LogEnd:
    """The end of one log file; empty where there is none."""

    def __init__(self, path: str, now_s: float) -> None:
        self.path = path
        self._now_s = now_s
        self.lines: tuple[LogLine, ...] = ()
        self._written_s: float | None = None
        try:
            with open(open_file(path), "rb") as file:
                status = os.fstat(file.fileno())
                self._written_s = status.st_mtime
                self.lines = tuple(_lines(file, status.st_size))
        except (FileNotFoundError, PermissionError, OddEntry):
            return

    def quote(self, line: LogLine, *, raw: bool = False) -> Quote:
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


def _lines(file: BinaryIO, size: int) -> Iterator[LogLine]:
    """The last lines, numbered as in the whole file."""
    left, number = max(0, size - TAIL_BYTES), 1
    while left > 0 and (chunk := file.read(min(left, 1 << 20))):
        left -= len(chunk)
        number += chunk.count(b"\n")
    for index, raw in enumerate(file.read(TAIL_BYTES).split(b"\n")):
        text = shown_lines(raw.decode("utf-8", "backslashreplace"))
        head = _HEADER.match(text)
        yield LogLine(number + index, text, head[2] if head else text, _seconds(head[1]) if head else None)


def _seconds(text: str) -> float | None:
    try:
        return parse_iso(text)
    except ValueError:
        return None
