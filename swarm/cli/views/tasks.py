"""Tables of tasks: listings, what is active. Pure.

One task in full, for people. Pure; imports little, because `swarm queue show` is asked often.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from swarm.cli.render import SIMULATED, Block, Cell, Column, Line, Table, state_cell
from swarm.cli.units import count, duration
from swarm.cli.views.views import ActiveRow, TaskRow


def tasks(rows: Sequence[TaskRow], *, state: str) -> Table:
    """A listing of one state."""
    if state == "corrupt":
        return _set_aside(rows)
    ended = state in ("failed", "cancelled")
    columns = (
        Column("task"),
        Column("class"),
        Column("model", gives_way=True),
        Column("prio", right=True),
        Column("tries", right=True),
        Column("worker"),
        Column("error" if ended else "name", gives_way=True),
    )
    return Table(columns=columns, rows=tuple(_task(row, ended=ended) for row in rows), empty=f"no {state} tasks")


def _set_aside(rows: Sequence[TaskRow]) -> Table:
    """Files that were no tasks: their names, and why they were set aside."""
    cells = tuple((row.task_id, Cell(row.error or "no reason is on record", "red")) for row in rows)
    return Table(columns=(Column("file"), Column("why", gives_way=True)), rows=cells, empty="no corrupt files")


def _task(row: TaskRow, *, ended: bool) -> tuple[Cell | str, ...]:
    last = Cell(row.error or "-", "red") if ended else Cell(row.name or "-")
    prio = "-" if row.priority is None else str(row.priority)
    return (row.task_id, row.task_class or "-", row.model or "-", prio, str(row.attempt), row.worker or "-", last)


def active(rows: Sequence[ActiveRow]) -> Table:
    """What the workers hold."""
    columns = (
        Column("worker"),
        Column("task"),
        Column("class"),
        Column("model", gives_way=True),
        Column("try", right=True),
        Column("for", right=True),
        Column("progress", right=True),
        Column("phase"),
        Column("name", gives_way=True),
    )
    return Table(columns=columns, rows=tuple(_active(row) for row in rows), empty="no task is being processed")


def _active(row: ActiveRow) -> tuple[Cell | str, ...]:
    phase = Cell("stuck", "bold red") if row.stuck else Cell(row.phase or "-")
    worker = Cell(row.worker) if row.worker_alive else Cell(f"{row.worker} (dead)", "bold red")
    kind, model = row.task_class or "-", row.model or "-"
    return (
        worker,
        row.task_id,
        kind,
        model,
        str(row.attempt),
        duration(row.elapsed_s),
        count(row.progress),
        phase,
        row.name or "-",
    )


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
