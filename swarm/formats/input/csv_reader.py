"""Reads CSV with a header: comma, semicolon or tab; quoted fields may span lines.

Every row must have the fields of the header.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator

from swarm.errors import InputError
from swarm.formats.input.problems import Problems
from swarm.formats.input.source import MAX_LINE_BYTES, InputItem, Source, not_utf8, nul_at, raw_lines


def read_csv(source: Source, problems: Problems) -> Iterator[InputItem]:
    """The rows below the header, all values as text.

    Rows that do not fit become problems; after a broken quote nothing further can be told apart, so reading ends there.
    """
    csv.field_size_limit(MAX_LINE_BYTES)
    text = _Lines(source, problems)
    first = next((line for line in text if line.strip()), "")
    header = header_of(source.label, first, delimiter_of(source.label, first), line_no=text.line_no)
    rows = csv.reader(text, delimiter=delimiter_of(source.label, first), strict=True)
    while True:
        start = text.line_no + 1
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            problems.add(start, f"not CSV: {error}; nothing after this line could be read")
            return
        if text.spoiled:
            text.spoiled = False
        elif row and len(row) != len(header):
            problems.add(start, f"has {len(row)} fields where the header has {len(header)} ({', '.join(header[:8])})")
        elif row:
            yield InputItem(start, dict(zip(header, row, strict=True)))


class _Lines:
    """Decoded lines for the csv module, counting them; a line that is no text spoils the row it stands in."""

    def __init__(self, source: Source, problems: Problems) -> None:
        self._lines = raw_lines(source, problems)
        self._problems = problems
        self.line_no = 0
        self.spoiled = False

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line_no, raw = next(self._lines)
        self.line_no = line_no
        if b"\x00" in raw:
            self._spoil(nul_at(raw))
            raw = raw.replace(b"\x00", b"")
        try:
            return raw.decode()
        except UnicodeDecodeError as error:
            self._spoil(not_utf8(error))
            return raw.decode(errors="replace")

    def _spoil(self, message: str) -> None:
        self.spoiled = True
        self._problems.add(self.line_no, message)


def delimiter_of(label: str, header: str) -> str:
    """What separates the fields: by the file's name, else by what its header holds."""
    if label.lower().endswith(".tsv"):
        return "\t"
    return next((mark for mark in ",;\t" if mark in header), ",")


def header_of(label: str, line: str, delimiter: str, *, line_no: int) -> list[str]:
    """The names of the columns. Raises ``InputError``."""
    where = f"{label}:{line_no}"
    try:
        names = [name.strip() for name in next(csv.reader([line], delimiter=delimiter, strict=True), [])]
    except csv.Error as error:
        raise InputError(f"{where}: the header is no CSV: {error}", hint="the header must stand on one line") from error
    if not names:
        raise InputError(f"{where}: there is no header", hint="the first line must name the columns")
    if "" in names:
        raise InputError(f"{where}: column {names.index('') + 1} of the header has no name", hint="name every column")
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"{where}: {twice}: the header has this column twice", hint="rename one of them")
    return names
