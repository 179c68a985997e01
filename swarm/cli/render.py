"""Prints blocks: through rich on a terminal, as aligned text in a pipe, or a document as JSON."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from swarm.plain_text import lines as shown_lines
from swarm.plain_text import one_line
from swarm.stdio import OutputLost, forget_output
from swarm.views.blocks import Block, Cell, Column, Line, Said, Table
from swarm.views.json_text import to_json_line

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text


MIN_WIDTH = 6
"""No column is cut to less than this."""
MIN_KEPT_END = 13
"""Nor one that gives way in its middle to less than this."""
READABLE = 18
"""Before one that gives way keeps less than this, columns that may be left out are."""


def show(document: object, blocks: Sequence[Block], *, as_json: bool) -> None:
    """Print an answer: ``document`` as JSON, or ``blocks`` as text.

    Where nobody is there to read it the command ends as it would have ended. Raises ``OutputLost`` on a full disk.
    """
    try:
        if as_json:
            print(to_json(document))
        elif sys.stdout.isatty():
            to_terminal(blocks, _console())
        else:
            sys.stdout.write(to_plain(blocks))
    except OutputLost as lost:
        if not lost.reader_gone:
            raise
        forget_output()


def to_json(document: object) -> str:
    r"""One indented JSON document. Bytes of a file name that are no UTF-8 are escaped: ``\udcff`` stands for ff."""
    line = to_json_line(document)
    try:
        return msgspec.json.format(line, indent=2)
    except msgspec.DecodeError:  # halves that stand for bytes: JSON allows them, msgspec does not read them
        import json

        return json.dumps(json.loads(line), indent=2)


def to_plain(blocks: Sequence[Block]) -> str:
    """Aligned text without colour and without cuts: every value is there whole, for ``grep`` and ``awk``."""
    out: list[str] = []
    for block in blocks:
        match block:
            case Line():
                out.append(one_line(block.text).rstrip() + "\n")
            case Table():
                out.extend(line.rstrip() + "\n" for line in _plain_table(block))
            case Said(text=text):
                out.append(text if text.endswith("\n") else text + "\n")
    return "".join(out)


def to_terminal(blocks: Sequence[Block], console: Console) -> None:
    """The same through rich."""
    from rich.text import Text

    for block in blocks:
        match block:
            case Line():
                console.print(Text(one_line(block.text), style=block.style))
            case Said():
                console.print(Text(shown_lines(block.text)))
            case Table() if not block.rows:
                for line in _plain_table(block):
                    console.print(Text(line, style="dim"))
            case Table():
                _terminal_table(block, console)


def _console() -> Console:
    from rich.console import Console

    return Console(highlight=False, no_color="NO_COLOR" in os.environ or None)


def _cells(row: Sequence[Cell | str]) -> list[Cell]:
    return [Cell(one_line(c)) if isinstance(c, str) else Cell(one_line(c.text), c.style) for c in row]


def _plain_table(table: Table) -> list[str]:
    head = [one_line(table.title)] if table.title else []
    if not table.rows:
        return [*head, one_line(table.empty)] if table.empty else []
    grid = [[c.name.upper() for c in table.columns], *([cell.text for cell in _cells(row)] for row in table.rows)]
    widths = [max(len(row[i]) for row in grid) for i in range(len(table.columns))]
    lines = []
    for row in grid:
        padded = (t.rjust(w) if c.right else t.ljust(w) for t, w, c in zip(row, widths, table.columns, strict=True))
        lines.append("  ".join(padded))
    return head + lines


def _terminal_table(table: Table, console: Console) -> None:
    from rich.text import Text

    if table.title:
        console.print(Text(one_line(table.title), style="bold"))
    table, left_out = narrowed(table, console.width)
    head, *rows = table_lines(table, console.width)
    console.print(head, no_wrap=True, overflow="ellipsis")
    console.print(Text("─" * min(max(line.cell_len for line in (head, *rows)), console.width), style="dim"))
    for row in rows:
        console.print(row, no_wrap=True, overflow="ellipsis")
    if left_out:
        console.print(Text(f"too narrow for: {', '.join(left_out)}", style="dim"))


def narrowed(table: Table, width: int) -> tuple[Table, list[str]]:
    """The table without the columns that a terminal of that width has no room for, and their names.

    Of those that may be left out the last goes first.
    """
    natural = _natural(table)
    needed = [min(size, READABLE) if c.gives_way else size for size, c in zip(natural, table.columns, strict=True)]
    kept = list(range(len(needed)))
    for i in reversed(kept[:]):
        if table.columns[i].optional and sum(needed[k] + 2 for k in kept) - 2 > width:
            kept.remove(i)
    left_out = [column.name for i, column in enumerate(table.columns) if i not in kept]
    rows = tuple(tuple(row[i] for i in kept) for row in table.rows)
    return msgspec.structs.replace(table, columns=tuple(table.columns[i] for i in kept), rows=rows), left_out


def _natural(table: Table) -> list[int]:
    grid = [_cells(row) for row in table.rows]
    return [max([len(c.name), *(len(row[i].text) for row in grid)]) for i, c in enumerate(table.columns)]


def table_lines(table: Table, width: int) -> list[Text]:
    """Head and rows, a line each, for a terminal of that width.

    Laid out here and not by rich, which would rather cut every column than the ones that give way.
    """
    table, _ = narrowed(table, width)
    grid = [_cells(row) for row in table.rows]
    widths = fit(_natural(table), table.columns, width)
    head = tuple(Cell(column.name, "dim") for column in table.columns)
    return [_terminal_row(cells, widths, table.columns) for cells in (head, *grid)]


def _terminal_row(cells: Sequence[Cell], widths: Sequence[int], columns: Sequence[Column]) -> Text:
    from rich.text import Text

    line = Text()
    for cell, width, column in zip(cells, widths, columns, strict=True):
        part = Text(_without_middle(cell.text, width) if column.keeps_end else cell.text, style=cell.style)
        part.truncate(width, overflow="ellipsis")
        gap = " " * (width - part.cell_len)
        line.append_text(Text(gap) + part if column.right else part + gap).append("  ")
    line.rstrip()
    return line


def _without_middle(text: str, width: int) -> str:
    """``rack-7…12-gpu0``: as much of both ends as there is room for."""
    if len(text) <= width:
        return text
    end = width * 2 // 3
    return f"{text[: width - end - 1]}…{text[len(text) - end :]}"


def fit(natural: Sequence[int], columns: Sequence[Column], limit: int) -> list[int]:
    """Column widths for a terminal of ``limit``: where that is too narrow the widest of those that give way give first."""
    widths = list(natural)
    floors = {i: MIN_KEPT_END if c.keeps_end else MIN_WIDTH for i, c in enumerate(columns) if c.gives_way}
    excess = sum(widths) + 2 * (len(widths) - 1) - limit
    while excess > 0:
        widest = max((i for i, floor in floors.items() if widths[i] > floor), key=lambda i: widths[i], default=None)
        if widest is None:
            break
        widths[widest] -= 1
        excess -= 1
    return widths
