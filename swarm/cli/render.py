"""Blocks of text and tables, as rich tables on a terminal, as aligned plain text in a pipe, or as one JSON document."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import msgspec

if TYPE_CHECKING:
    from rich.console import Console

Style = Literal["", "bold", "dim", "red", "yellow", "green", "bold red"]
_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


class Cell(msgspec.Struct, frozen=True):
    """Text with a style for terminals."""

    text: str
    style: Style = ""


class Column(msgspec.Struct, frozen=True):
    """A column's head, whether it is right-aligned, and whether it gives way where the terminal is narrow."""

    name: str
    right: bool = False
    gives_way: bool = False


class Line(msgspec.Struct, frozen=True):
    """One line of text."""

    text: str
    style: Style = ""


class Table(msgspec.Struct, frozen=True, kw_only=True):
    """Rows under heads; ``empty`` is said instead of a table without rows."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell | str, ...], ...]
    title: str = ""
    empty: str = ""


Block = Line | Table


def show(document: object, blocks: Sequence[Block], *, as_json: bool) -> None:
    """Put an answer on standard output: ``document`` as JSON, or ``blocks`` for people."""
    if as_json:
        print(to_json(document))
    elif sys.stdout.isatty():
        to_terminal(blocks, _console())
    else:
        sys.stdout.write(to_plain(blocks))


def to_json(document: object) -> str:
    """One indented JSON document."""
    return msgspec.json.format(msgspec.json.encode(document), indent=2).decode()


def to_plain(blocks: Sequence[Block]) -> str:
    """Aligned text without colour and without cuts: every value is there whole, for ``grep`` and ``awk``."""
    out: list[str] = []
    for block in blocks:
        match block:
            case Line():
                out.append(clean(block.text))
            case Table():
                out.extend(_plain_table(block))
    return "".join(line.rstrip() + "\n" for line in out)


def to_terminal(blocks: Sequence[Block], console: Console) -> None:
    """The same through rich."""
    from rich.text import Text

    for block in blocks:
        match block:
            case Line():
                console.print(Text(clean(block.text), style=block.style))
            case Table() if not block.rows:
                for line in _plain_table(block):
                    console.print(Text(line, style="dim"))
            case Table():
                _rich_table(block, console)


def clean(text: str) -> str:
    """Text from outside made harmless: no control characters, no line breaks, nothing that reorders the line."""
    return _UNSAFE.sub(lambda hit: hit[0].encode("unicode_escape", "surrogatepass").decode(), text)


def _console() -> Console:
    from rich.console import Console

    return Console(highlight=False, no_color="NO_COLOR" in os.environ or None)


def _cells(row: Sequence[Cell | str]) -> list[Cell]:
    return [Cell(clean(c)) if isinstance(c, str) else Cell(clean(c.text), c.style) for c in row]


def _plain_table(table: Table) -> list[str]:
    head = [table.title] if table.title else []
    if not table.rows:
        return [*head, table.empty] if table.empty else []
    grid = [[c.name.upper() for c in table.columns], *([cell.text for cell in _cells(row)] for row in table.rows)]
    widths = [max(len(row[i]) for row in grid) for i in range(len(table.columns))]
    lines = []
    for row in grid:
        padded = (t.rjust(w) if c.right else t.ljust(w) for t, w, c in zip(row, widths, table.columns, strict=True))
        lines.append("  ".join(padded))
    return head + lines


def _rich_table(table: Table, console: Console) -> None:
    from rich import box
    from rich.table import Table as RichTable
    from rich.text import Text

    view = RichTable(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        show_edge=False,
        title=clean(table.title) or None,
        title_justify="left",
        title_style="bold",
        header_style="dim",
        padding=(0, 1, 0, 0),
    )
    for column in table.columns:
        # the columns that must stay whole are given their width; only the others are cut where the terminal is narrow
        width = None if column.gives_way else max(len(column.name), *(len(t) for t in _column_texts(table, column)))
        view.add_column(
            column.name, justify="right" if column.right else "left", no_wrap=True, overflow="ellipsis", min_width=width
        )
    for row in table.rows:
        view.add_row(*(Text(cell.text, style=cell.style) for cell in _cells(row)))
    console.print(view)


def _column_texts(table: Table, column: Column) -> list[str]:
    index = table.columns.index(column)
    return [_cells(row)[index].text for row in table.rows]
