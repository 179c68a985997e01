"""What is shown to a reader, as data: lines and tables whose cells have styles. Whoever shows them lays them out."""

from __future__ import annotations

from typing import Literal

import msgspec

Style = Literal["", "bold", "dim", "red", "yellow", "green", "bold red"]


class Cell(msgspec.Struct, frozen=True):
    """Text with a style for terminals."""

    text: str
    style: Style = ""


class Column(msgspec.Struct, frozen=True):
    """A column's head, whether it is right-aligned, and what becomes of it where the terminal is narrow."""

    name: str
    right: bool = False
    gives_way: bool = False
    keeps_end: bool = False
    """What gives way is the middle: its end tells cells apart."""
    optional: bool = False
    """It is left out before the table is cut, the last such column first."""


class Line(msgspec.Struct, frozen=True):
    """One line of text."""

    text: str
    style: Style = ""


class Said(msgspec.Struct, frozen=True):
    """A task's answer: exact in a pipe or file, with control characters made harmless on a terminal."""

    text: str


class Table(msgspec.Struct, frozen=True, kw_only=True):
    """Rows under heads; ``empty`` is said instead of a table without rows."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell | str, ...], ...]
    title: str = ""
    empty: str = ""


Block = Line | Table | Said


def columns(*heads: str) -> tuple[Column, ...]:
    """Columns by name: ``name>`` is right-aligned; on a narrow terminal ``name~`` gives way, ``name~~`` in its middle.

    One that ends with ``?`` besides is left out there before anything is cut.
    """
    return tuple(_column(head.removesuffix("?"), optional=head.endswith("?")) for head in heads)


def _column(head: str, *, optional: bool) -> Column:
    return Column(
        head.rstrip(">~"),
        right=head.endswith(">"),
        gives_way=head.endswith("~"),
        keeps_end=head.endswith("~~"),
        optional=optional,
    )


_STATE_STYLES: dict[str, Style] = {
    "dead": "bold red",
    "hung": "bold red",
    "card_lost": "bold red",
    "failed": "red",
    "corrupt": "red",
    "stale": "yellow",
    "unready": "yellow",
    "draining": "yellow",
    "loading": "yellow",
    "busy": "green",
    "completed": "green",
    "idle": "dim",
    "stopped": "dim",
}
SIMULATED = "simulated: answers come from simulated model servers"


def state_cell(state: str) -> Cell:
    """A state in its colour."""
    return Cell(state, _STATE_STYLES.get(state, ""))
