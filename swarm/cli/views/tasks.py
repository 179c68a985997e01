"""Tables of tasks: listings, what is active. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from swarm.cli.render import Cell, Column, Table
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
