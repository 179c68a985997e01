"""Sources of a feed, read from a cursor on in flat memory.

A source is a file of lines, a CSV file, or the output lines of a command.
"""

from __future__ import annotations

import csv
import hashlib
import os
import select
import signal
import subprocess
from collections.abc import Iterator, Sequence
from typing import Any

from swarm.core.workflow.feed import FeedLine, FeedState
from swarm.errors import InputError
from swarm.formats.input.csv_reader import delimiter_of, header_of
from swarm.formats.input.problems import FieldError
from swarm.formats.input.source import MAX_LINE_BYTES, first_line, not_utf8, text_of

_CHUNK = 1 << 16
STOP_S = 5.0


def digest_of(line: bytes) -> str:
    """Identifies a line."""
    return hashlib.blake2b(line, digest_size=8).hexdigest()


class _Cursor:
    """Counts lines and bytes; blank lines are passed over."""

    def __init__(self, label: str, number: int, offset: int) -> None:
        self._label = label
        self.number = number
        self.offset = offset

    def line(self, whole: bytes, size: int | None = None) -> FeedLine | None:
        """The line, counted; None for a blank one. ``size``: what it took of the source, if that is not its length.

        Raises ``InputError`` for a text that is no UTF-8 from its first byte on.
        """
        size = size or len(whole)
        self.number += 1
        self.offset += size
        raw = whole.rstrip(b"\r\n")
        if self.number == 1:
            raw = first_line(self._label, raw)
        if not raw or raw.isspace():
            return None
        return FeedLine(self.number, raw, self.offset, size, digest_of(whole))


class _OpenFile:
    """A file from its cursor on; with ``follow`` it never ends, but grows."""

    ended = False
    """Read to its end, or to where nothing further can be read."""
    fault: str | None = None
    """Why nothing further can be read."""

    def __init__(self, path: str, state: FeedState, *, follow: bool) -> None:
        """Raises ``InputError`` when there is no such file, or when it is not the one the cursor belongs to."""
        self._path = path
        self._follow = follow
        try:
            self._file = open(path, "rb")  # noqa: SIM115 - closed by who asked for it
        except OSError as error:
            raise InputError(f"{path}: cannot be read: {error.strerror}", hint="check the path") from error
        try:
            self._begin(state)
        except InputError:
            self._file.close()
            raise

    def _begin(self, state: FeedState) -> None:
        """Go to the cursor."""
        if state.offset:
            self._file.seek(max(0, state.offset - state.last_bytes))
            if digest_of(self._file.read(min(state.last_bytes, MAX_LINE_BYTES))) != state.last_digest:
                raise changed(self._path, state.number)
            self._file.seek(state.offset - 1)
            last, then = self._file.read(1), self._file.read(1)
            if last != b"\n" and then not in (b"", b"\r", b"\n"):  # it had no line end yet, and has grown
                raise changed(self._path, state.number)
        self._file.seek(state.offset)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class FileLines(_OpenFile):
    """The lines of a file."""

    def _begin(self, state: FeedState) -> None:
        super()._begin(state)
        self._at = _Cursor(self._path, state.number, state.offset)

    def read(self) -> FeedLine | None:
        """The next line. One longer than ``MAX_LINE_BYTES`` comes cut, which no format takes for good."""
        while True:
            whole = self._file.readline(MAX_LINE_BYTES)
            if self._follow and not whole.endswith(b"\n") and len(whole) < MAX_LINE_BYTES:
                self._file.seek(self._at.offset)  # its writer has not finished this line
                return None
            if not whole:
                self.ended = True
                return None
            size = len(whole)
            while len(whole) >= MAX_LINE_BYTES and (more := self._file.readline(_CHUNK)):
                size += len(more)
                if more.endswith(b"\n"):
                    break
            line = self._at.line(whole, size)
            if line is not None:
                return line


class CommandLines:
    """The lines a command prints. After a restart it is run anew, and what it printed before is passed over."""

    def __init__(self, argv: Sequence[str], state: FeedState) -> None:
        """Raises ``InputError`` when there is no such program."""
        try:
            self._process = subprocess.Popen(
                list(argv), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, start_new_session=True
            )
        except OSError as error:
            raise InputError(f"--command: {argv[0]}: {error.strerror}", hint="it is run without a shell") from error
        assert self._process.stdout is not None
        self._fd = self._process.stdout.fileno()
        os.set_blocking(self._fd, False)
        self._resume = state if state.number else None
        self._label = argv[0]
        self._buffer = bytearray()
        self._closed = False
        self._at = _Cursor(f"--command {self._label}", 0, 0)

    @property
    def ended(self) -> bool:
        """It has closed its output, and all of it was read."""
        return self._closed and not self._buffer

    @property
    def fault(self) -> str | None:
        """Its exit status, where that is not 0."""
        if not self.ended:
            return None
        if (status := self._process.wait(STOP_S)) == 0:
            return None
        return f"the command ended with status {status}; run the feed again to resume where it stopped"

    def read(self) -> FeedLine | None:
        """The next line behind the cursor; None while none is there. Raises ``InputError`` if it prints other lines now."""
        while (whole := self._whole()) is not None:
            line = self._at.line(whole)
            if self._resume is not None and self._at.number <= self._resume.number:
                if self._at.number == self._resume.number and digest_of(whole) != self._resume.last_digest:
                    raise changed(f"--command {self._label}", self._resume.number)
                continue
            if line is not None:
                return line
        return None

    def _whole(self) -> bytes | None:
        searched = 0
        while True:
            end = self._buffer.find(b"\n", searched)
            if end >= 0 or (self._closed and self._buffer) or len(self._buffer) >= MAX_LINE_BYTES:
                size = end + 1 if end >= 0 else len(self._buffer)
                whole = bytes(self._buffer[:size])
                del self._buffer[:size]
                return whole
            searched = len(self._buffer)
            if self._closed or not select.select([self._fd], [], [], 0)[0]:
                return None
            chunk = os.read(self._fd, _CHUNK)
            self._buffer += chunk
            self._closed = not chunk

    def close(self) -> None:
        """End it, with all it started that stayed in its session."""
        assert self._process.stdout is not None
        self._process.stdout.close()
        if self._process.poll() is not None:
            return
        for number in (signal.SIGTERM, signal.SIGKILL):
            os.killpg(self._process.pid, number)
            try:
                self._process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                continue
            return


def changed(label: str, number: int) -> InputError:
    """The source is another one than the cursor belongs to."""
    return InputError(
        f"{label}: line {number} is no longer what it was when it was fed; nothing more is fed",
        hint="put the source back as it was, or feed it under another name; new lines belong at its end",
    )


class CsvRows(_OpenFile):
    """The rows below the header; a row may span lines. Its number is that of its last line.

    What is wrong with one row rejects that row; behind a broken quote no row can be told from the next, so the feed
    fails there and goes on, once the file is mended from that row on.
    """

    def _begin(self, state: FeedState) -> None:
        """Read the header at the file's beginning; a fresh feed goes on behind it."""
        super()._begin(state)
        csv.field_size_limit(MAX_LINE_BYTES)
        self._file.seek(0)
        number, raw = 0, b"\n"
        while raw and not raw.strip():
            raw = self._file.readline(MAX_LINE_BYTES)
            number += 1
        try:
            line = (first_line(self._path, raw) if number == 1 else raw).decode()
        except UnicodeDecodeError as error:
            raise InputError(f"{self._path}:{number}: {not_utf8(error)}") from error
        self._delimiter = delimiter_of(self._path, line)
        self._names = header_of(self._path, line, self._delimiter, line_no=number)
        self.header_digest = digest_of(raw)
        if state.number and self.header_digest != state.header_digest:
            raise changed(self._path, number)
        self._number, self._offset = (state.number, state.offset) if state.number else (number, self._file.tell())
        self._file.seek(self._offset)

    def read(self) -> FeedLine | None:
        """The next row that is not blank; None: there is none (with ``follow``: none whose writer has finished it)."""
        while not self.ended:
            taken: list[bytes] = []
            row = self._row(taken)
            if row is None:
                return None
            raw = b"".join(taken)
            self._number += len(taken)
            self._offset += len(raw)
            if row:
                return FeedLine(self._number, raw.rstrip(b"\r\n"), self._offset, len(raw), digest_of(raw))
        return None

    def _row(self, taken: list[bytes]) -> list[str] | None:
        """The next row, read as bytes (its quotes and marks are ASCII); ``taken`` gets its lines. None: no whole row."""
        try:
            row = next(csv.reader(self._lines(taken), delimiter=self._delimiter, strict=True), None)
        except csv.Error as error:
            if self._follow and not self._file.read(1):
                row = None
            else:
                self.ended = True
                self.fault = f"line {self._number + 1}: not CSV: {error}; nothing behind it can be read"
                return None
        if row is None or (self._follow and not taken[-1].endswith(b"\n")):
            self.ended = not self._follow
            self._file.seek(self._offset)
            return None
        return row

    def _lines(self, taken: list[bytes]) -> Iterator[str]:
        size = 0
        while line := self._file.readline(MAX_LINE_BYTES + 1):
            size += len(line)
            if size > MAX_LINE_BYTES:
                raise csv.Error(f"the row is longer than {MAX_LINE_BYTES >> 20} MiB; most likely a quote is missing")
            taken.append(line)
            yield line.decode("latin-1")

    def record(self, raw: bytes) -> dict[str, Any]:
        """A row by the names of the header, all values as text. Raises ``FieldError``."""
        lines = [f"{line}\n" for line in text_of(raw).split("\n")]  # a file's lines end there, and nowhere else
        row = next(csv.reader(lines, delimiter=self._delimiter, strict=True))
        if len(row) != len(self._names):
            shown = ", ".join(self._names[:8])
            raise FieldError("", f"has {len(row)} fields where the header has {len(self._names)} ({shown})")
        return dict(zip(self._names, row, strict=True))
