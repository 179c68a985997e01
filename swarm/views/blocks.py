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
    """A column's head, whether it is right-aligned, and whether it gives way where the terminal is narrow."""

    name: str
    right: bool = False
    gives_way: bool = False
    keeps_end: bool = False
    """What gives way is the middle: its end tells cells apart."""


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
    """Columns by name: ``name>`` is right-aligned; on a narrow terminal ``name~`` gives way, ``name~~`` in its middle."""
    return tuple(
        Column(h.rstrip(">~"), right=h.endswith(">"), gives_way=h.endswith("~"), keeps_end=h.endswith("~~")) for h in heads
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
