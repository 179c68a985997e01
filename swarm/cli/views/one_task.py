"""One task in full, for people. Pure; imports little, because `swarm queue show` is asked often."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from swarm.cli.render import SIMULATED, Block, Cell, Column, Line, Table, state_cell


def blocks(document: Mapping[str, Any]) -> list[Block]:
    """One task: what it is, what happened to it, how it ended."""
    found: list[Block] = [Line(f"task {document.get('task_id')}: {document.get('state')}", "bold")]
    if document.get("simulated"):
        found.append(Line(SIMULATED, "yellow"))
    skip = {"task_id", "state", "status", "attempts", "result", "error", "simulated"}
    fields = {name: value for name, value in document.items() if name not in skip and value not in (None, "", [], {})}
    results = {f"result.{name}": value for name, value in (document.get("result") or {}).items()}
    width = max((len(name) for name in (*fields, *results)), default=0)
    found += [Line(f"{name:{width}} {_short(value)}") for name, value in fields.items()]
    if error := document.get("error"):
        found.append(Line(f"{'error':{width}} {error.get('type')}: {error.get('message')}", "red"))
    found += [Line(f"{name:{width}} {_short(value)}") for name, value in results.items()]
    if attempts := document.get("attempts"):
        columns = (
            Column("try", right=True),
            Column("worker"),
            Column("started"),
            Column("ended"),
            Column("outcome"),
            Column("error", gives_way=True),
        )
        found += [Line(""), Table(columns=columns, rows=tuple(_attempt(a) for a in attempts))]
    return found


def _attempt(attempt: Mapping[str, Any]) -> tuple[Cell | str, ...]:
    error = attempt.get("error") or {}
    outcome = str(attempt.get("outcome", "completed"))
    return (
        str(attempt.get("attempt", "")),
        str(attempt.get("worker", "-")),
        str(attempt.get("started_at", "-")),
        str(attempt.get("ended_at", "-")),
        state_cell(outcome),
        f"{error.get('type')}: {error.get('message')}" if error else "-",
    )


def _short(value: object, limit: int = 300) -> str:
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return text if len(text) <= limit else f"{text[:limit]} … ({len(text) - limit} more; --json shows all)"
