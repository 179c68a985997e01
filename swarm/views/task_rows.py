"""Tasks: listed, held by workers, and one in full; rows for ``--json``, and their tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from swarm.clock import parse_iso
from swarm.core.health.liveness import stuck
from swarm.core.lanes import parse_lane
from swarm.core.task import DEFAULT_PRIORITY, TERMINAL
from swarm.core.worker import SlotView
from swarm.views.blocks import SIMULATED, Block, Cell, Line, Table, columns, state_cell
from swarm.views.node_words import node_cells, several_nodes, worker_heads
from swarm.views.words import count, duration

if TYPE_CHECKING:
    from swarm.config.settings import Settings
    from swarm.core.snapshot import ClaimView, SwarmSnapshot, WorkerView
    from swarm.queue.lookup import Located


class TaskRow(msgspec.Struct, frozen=True, kw_only=True):
    """One task in a listing."""

    task_id: str
    state: str
    attempt: int
    task_class: str | None = None
    model: str | None = None
    name: str = ""
    priority: int | None = None
    worker: str | None = None
    """Who holds it, or ran its last attempt."""
    node: str = ""
    """Machine of that worker's cards; empty: this one."""
    created_at: str | None = None
    completed_at: str | None = None
    simulated: bool = False
    error: str | None = None


class ActiveRow(msgspec.Struct, frozen=True, kw_only=True):
    """One task that a worker holds."""

    worker: str
    node: str
    """Machine of its cards; empty: this one."""
    task_id: str
    task_class: str | None
    model: str | None
    name: str
    attempt: int
    phase: str
    progress: int
    elapsed_s: float
    stuck: bool
    worker_alive: bool


def task_row(
    located: Located, document: Mapping[str, Any] | None, *, reason: str = "", nodes: Mapping[str, str] | None = None
) -> TaskRow:
    """One line of a listing; ``document`` is None where it could not be read (it moved on, or is corrupt).

    ``reason``: why a file was moved to corrupt/. ``nodes``: machines of workers, by name.
    """
    doc = document or {}
    parsed = parse_lane(located.lane) if located.lane else None
    error = doc.get("error") or {}
    attempts = doc.get("attempts") or ()
    ended = str(doc.get("state", located.state)) in TERMINAL
    worker = located.worker or (attempts[-1].get("worker") if attempts and ended else None)
    return TaskRow(
        task_id=located.task_id,
        state=str(doc.get("state", located.state)),
        attempt=located.attempt or len(attempts),
        task_class=doc.get("task_class") or (str(parsed[0]) if parsed else None),
        model=doc.get("model") or (parsed[1] if parsed and parsed[0] == "llm" else None),
        name=str(doc.get("name", "")),
        priority=doc.get("priority", DEFAULT_PRIORITY) if doc else None,
        worker=worker,
        node=(nodes or {}).get(worker or "", ""),
        created_at=doc.get("created_at"),
        completed_at=doc.get("completed_at"),
        simulated=bool(doc.get("simulated", False)),
        error=f"{error.get('type')}: {error.get('message')}" if error else reason or None,
    )


def active_rows(snapshot: SwarmSnapshot, settings: Settings) -> tuple[ActiveRow, ...]:
    """Tasks that workers hold, by worker, the oldest first."""
    late = {claim.task_id for claim in stuck(snapshot, settings)}
    rows = [_active_row(claim, snapshot.worker(claim.worker), is_stuck=claim.task_id in late) for claim in snapshot.claims]
    return tuple(sorted(rows, key=lambda row: (row.worker, -row.elapsed_s, row.task_id)))


def _active_row(claim: ClaimView, worker: WorkerView | None, *, is_stuck: bool) -> ActiveRow:
    beat = worker.heartbeat if worker else None
    slot = next((s for s in beat.slots if s.task_id == claim.task_id), None) if beat else None
    known = slot or SlotView(task_id=claim.task_id, task_class=claim.task_class or "", phase="")
    return ActiveRow(
        worker=claim.worker,
        node=worker.node if worker else "",
        task_id=claim.task_id,
        task_class=claim.task_class or known.task_class or None,
        model=claim.model or known.model,
        name=claim.name or known.name,
        attempt=claim.attempt,
        phase=known.phase,
        progress=max(claim.progress, known.progress),
        elapsed_s=max(claim.elapsed_s, known.elapsed_s),
        stuck=is_stuck,
        worker_alive=bool(worker and worker.alive),
    )


def task_table(rows: Sequence[TaskRow], *, state: str, now_s: float, of: str = "") -> Table:
    """A listing of one state, with the time since they came or ended. ``of``: which tasks were asked for, in words."""
    if state == "corrupt":
        return _corrupt_table(rows)
    bad = state in ("failed", "cancelled")
    nodes = several_nodes(rows)
    when, last = "ended>" if state in TERMINAL else "age>", "error~" if bad else "name~"
    heads = columns("task", "class?", "model~", "prio>?", "tries>", when, *worker_heads(nodes), last)
    cells = tuple(_task_cells(row, bad=bad, nodes=nodes, now_s=now_s) for row in rows)
    return Table(columns=heads, rows=cells, empty=f"no {state} tasks{of}")


def _corrupt_table(rows: Sequence[TaskRow]) -> Table:
    """Files that were no tasks: their names, and why they were moved to corrupt/."""
    cells = tuple((row.task_id, Cell(row.error or "no reason is recorded", "red")) for row in rows)
    return Table(columns=columns("file", "why~"), rows=cells, empty="no corrupt files")


def _task_cells(row: TaskRow, *, bad: bool, nodes: bool, now_s: float) -> tuple[Cell | str, ...]:
    last = Cell(row.error or "-", "red") if bad else Cell(row.name or "-")
    prio = "-" if row.priority is None else str(row.priority)
    ago = f"{_since(row.completed_at, now_s)} ago" if row.completed_at else _since(row.created_at, now_s)
    what = (row.task_id, row.task_class or "-", row.model or "-", prio, str(row.attempt), ago, row.worker or "-")
    return (*what, *node_cells(row.node if row.worker else None, nodes), last)


def _since(moment: str | None, now_s: float) -> str:
    try:
        return "-" if moment is None else duration(max(0.0, now_s - parse_iso(moment)))
    except ValueError:
        return "-"


def active_table(rows: Sequence[ActiveRow]) -> Table:
    """What the workers hold."""
    nodes = several_nodes(rows)
    heads = columns(*worker_heads(nodes), "task", "class?", "model~", "try>", "for>", "progress>", "phase", "name~?")
    cells = tuple(_active_cells(row, nodes=nodes) for row in rows)
    return Table(columns=heads, rows=cells, empty="no task is being processed")


def _active_cells(row: ActiveRow, *, nodes: bool) -> tuple[Cell | str, ...]:
    what = (*node_cells(row.node, nodes), row.task_id, row.task_class or "-", row.model or "-", str(row.attempt))
    return (holder_cell(row), *what, duration(row.elapsed_s), count(row.progress), phase_cell(row), row.name or "-")


def holder_cell(row: ActiveRow) -> Cell:
    """Its worker, marked if that is dead."""
    return Cell(row.worker) if row.worker_alive else Cell(f"{row.worker} (dead)", "bold red")


def phase_cell(row: ActiveRow) -> Cell:
    """What it does, marked if it makes no progress."""
    return Cell("stuck", "bold red") if row.stuck else Cell(row.phase or "-")


def task_blocks(document: Mapping[str, Any]) -> list[Block]:
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
        heads = columns("try>", "worker", "started", "ended", "outcome", "error~")
        found += [Line(""), Table(columns=heads, rows=tuple(_attempt_cells(a) for a in attempts))]
    return found


def _attempt_cells(attempt: Mapping[str, Any]) -> tuple[Cell | str, ...]:
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
