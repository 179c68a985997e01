"""A CSV file as the source of a feed: row by row, each with the place where it ends, for a cursor to stand behind it."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from typing import Any

from swarm.core.workflow.feed import FeedLine, FeedState
from swarm.errors import InputError
from swarm.formats.input.csv_reader import delimiter_of, header_of
from swarm.formats.input.feed_lines import changed, digest_of, opened_at
from swarm.formats.input.problems import FieldError
from swarm.formats.input.source import MAX_LINE_BYTES, first_line, not_utf8


class CsvRows:
    """The rows below the header from the cursor on; a row may span lines. Its number is that of its last line.

    What is wrong with one row rejects that row; behind a broken quote no row can be told from the next, so the feed
    fails there and goes on, once the file is mended from that row on.
    """

    def __init__(self, path: str, state: FeedState, *, follow: bool) -> None:
        """Raises ``InputError`` for no such file, no header, or a file that is not the one the cursor belongs to."""
        self._path = path
        self._follow = follow
        self._fault: str | None = None
        self._ended = False
        self._file = opened_at(path, state)
        try:
            self._read_header(state)
        except InputError:
            self._file.close()
            raise
        csv.field_size_limit(MAX_LINE_BYTES)

    def _read_header(self, state: FeedState) -> None:
        """Read it at the file's beginning; a fresh feed goes on behind it."""
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

    @property
    def ended(self) -> bool:
        """Read to its end, or to where nothing further can be read."""
        return self._ended

    @property
    def fault(self) -> str | None:
        """Why nothing further can be read."""
        return self._fault

    def read(self) -> FeedLine | None:
        """The next row that is not blank; None: there is none (with ``follow``: none whose writer has finished it)."""
        while not self._ended:
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
                self._ended = True
                self._fault = f"line {self._number + 1}: not CSV: {error}; nothing behind it can be read"
                return None
        if row is None or (self._follow and not taken[-1].endswith(b"\n")):
            self._ended = not self._follow
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
        if b"\x00" in raw:
            raise FieldError("", f"byte {raw.index(0) + 1} is NUL; this is no text file, or it is damaged")
        try:
            text = raw.decode()
        except UnicodeDecodeError as error:
            raise FieldError("", not_utf8(error)) from error
        lines = [f"{line}\n" for line in text.split("\n")]  # a file's lines end there, and nowhere else
        row = next(csv.reader(lines, delimiter=self._delimiter, strict=True))
        if len(row) != len(self._names):
            shown = ", ".join(self._names[:8])
            raise FieldError("", f"has {len(row)} fields where the header has {len(self._names)} ({shown})")
        return dict(zip(self._names, row, strict=True))

    def close(self) -> None:
        """Close the file."""
        self._file.close()
