"""Workers and cards: rows for ``--json``, and their tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec

from swarm.cli.render import Cell, Table, columns, state_cell
from swarm.cli.units import count, duration, mib, percent
from swarm.config.settings import Settings
from swarm.core.health.liveness import condition, workers_of
from swarm.core.snapshot import SwarmSnapshot, WorkerView
from swarm.core.worker import WorkerStatus

if TYPE_CHECKING:
    from swarm.cli.views.task_rows import ActiveRow


class WorkerLine(msgspec.Struct, frozen=True, kw_only=True):
    """One worker."""

    name: str
    state: str
    """The verdict of ``swarm.core.health.liveness``; for a healthy worker its own word (idle, busy, loading)."""
    reason: str
    alive: bool
    model: str | None
    tasks: tuple[str, ...]
    slots_busy: int
    slots: int
    completed: int
    failed: int
    tokens_out: int
    tokens_per_s: float | None
    """Of what it does now, reckoned from what it learned of its model; None while it answers nothing."""
    idle_s: float
    gpus: tuple[int, ...]
    port: int | None
    url: str | None
    adopted: bool
    simulated: bool
    pid: int | None
    started_at: str | None


class CardRow(msgspec.Struct, frozen=True, kw_only=True):
    """One card. None: the driver did not say."""

    index: int
    uuid: str
    name: str
    simulated: bool
    worker: str | None
    model: str | None
    memory_used_mib: int | None
    memory_total_mib: int | None
    utilisation_pct: int | None
    temperature_c: int | None
    power_w: float | None
    fault: str | None


def worker_lines(snapshot: SwarmSnapshot, settings: Settings) -> tuple[WorkerLine, ...]:
    """All workers, by name; the brain and the servers are not among them."""
    return tuple(_worker_line(view, snapshot, settings) for view in workers_of(snapshot))


def _worker_line(view: WorkerView, snapshot: SwarmSnapshot, settings: Settings) -> WorkerLine:
    verdict = condition(view, snapshot, settings)
    beat = view.heartbeat
    healthy = verdict.state in ("ready", "no_server") and beat is not None
    row = view.row
    return WorkerLine(
        name=view.name,
        state=str(beat.status) if healthy and beat else verdict.state,
        reason=(beat.reason if beat else "") if healthy else verdict.text,
        alive=view.alive,
        model=beat.model if beat and view.alive else None,
        tasks=tuple(c.task_id for c in snapshot.claims if c.worker == view.name),
        slots_busy=sum(1 for c in snapshot.claims if c.worker == view.name and c.task_class in (None, "llm")),
        slots=row.llm_slots if row else 1,
        completed=beat.tally.completed if beat else 0,
        failed=beat.tally.failed if beat else 0,
        tokens_out=beat.tally.tokens_out if beat else 0,
        tokens_per_s=busy_rates(view)[1] or None,
        idle_s=beat.idle_s if beat and beat.status is WorkerStatus.IDLE else 0.0,
        gpus=row.gpus if row else (),
        port=row.port if row else None,
        url=row.url if row else None,
        adopted=bool(row and row.adopted),
        simulated=bool(row and row.simulated),
        pid=row.process.pid if row and view.alive else None,
        started_at=row.started_at if row else None,
    )


def busy_rates(view: WorkerView) -> tuple[float, float]:
    """Tasks and generated tokens per second of what a worker answers now: busy slots over learned seconds per request."""
    beat = view.heartbeat if view.alive else None
    tally = beat.models.get(beat.model) if beat and beat.model else None
    ended = tally.completed + tally.failed if tally else 0
    if beat is None or tally is None or tally.busy_s <= 0 or not ended:
        return 0.0, 0.0
    busy = sum(1 for slot in beat.slots if slot.task_class == "llm")
    return busy * ended / tally.busy_s, busy * tally.tokens_out / tally.busy_s


def card_rows(snapshot: SwarmSnapshot) -> tuple[CardRow, ...]:
    """All cards, each with the worker that owns it."""
    owners = {uuid: view for view in workers_of(snapshot) if view.row for uuid in view.row.gpu_uuids}
    rows = []
    for gpu in snapshot.gpus:
        owner = owners.get(gpu.uuid) or owners.get(str(gpu.index))
        beat = owner.heartbeat if owner and owner.alive else None
        rows.append(
            CardRow(
                index=gpu.index,
                uuid=gpu.uuid,
                name=gpu.name,
                simulated=gpu.simulated,
                worker=owner.name if owner else None,
                model=beat.model if beat else None,
                memory_used_mib=gpu.memory_used_mib,
                memory_total_mib=gpu.memory_total_mib,
                utilisation_pct=gpu.utilisation_pct,
                temperature_c=gpu.temperature_c,
                power_w=gpu.power_w,
                fault=gpu.fault,
            )
        )
    return tuple(rows)


def cards_table(rows: Sequence[CardRow]) -> Table:
    """Cards with memory, load, temperature, power."""
    heads = columns("gpu>", "card~", "worker", "memory>", "load>", "temp>", "power>", "model~")
    cells = tuple(_card_cells(row) for row in rows)
    return Table(columns=heads, rows=cells, empty="no GPU found: `swarm up --simulate 2` works without")


def _card_cells(row: CardRow) -> tuple[Cell | str, ...]:
    name = f"{row.name} (simulated)" if row.simulated and "simulated" not in row.name.lower() else row.name
    model = Cell(row.fault, "bold red") if row.fault else Cell(row.model or "-")
    temperature = "-" if row.temperature_c is None else f"{row.temperature_c}C"
    power = "-" if row.power_w is None else f"{row.power_w:.0f}W"
    memory = mib(row.memory_used_mib, row.memory_total_mib)
    return (str(row.index), name, row.worker or "-", memory, percent(row.utilisation_pct), temperature, power, model)


def workers_table(rows: Sequence[WorkerLine], *, short: bool = False, active: Sequence[ActiveRow] = ()) -> Table:
    """Workers; ``short`` leaves out what the cards' table and `swarm workers` show. ``active``: how far their tasks are."""
    more = () if short else ("tokens>", "gpus")
    heads = columns("worker", "state", "model~", "slots>", "done>", "failed>", "tok/s>", *more, "doing~")
    held = {task.task_id: task for task in active}
    cells = tuple(_worker_cells(row, short=short, held=held) for row in rows)
    return Table(columns=heads, rows=cells, empty="no workers are registered: `swarm up` starts one per card")


def _doing(row: WorkerLine, held: Mapping[str, ActiveRow]) -> str:
    """``d5de16d7 7s +42``: the tasks in a worker's hands with age and progress, else why it does nothing."""
    if row.tasks and row.alive:
        return ", ".join(_task_words(task_id, held.get(task_id)) for task_id in row.tasks)
    idle = f"idle {duration(row.idle_s)}" if row.idle_s else ""
    return "; ".join(part for part in (idle, row.reason) if part) or "-"


def _task_words(task_id: str, task: ActiveRow | None) -> str:
    if task is None:
        return task_id
    stuck = " STUCK" if task.stuck else ""
    return f"{task_id} {duration(task.elapsed_s)}{f' +{count(task.progress)}' if task.progress else ''}{stuck}"


def _worker_cells(row: WorkerLine, *, short: bool, held: Mapping[str, ActiveRow]) -> tuple[Cell | str, ...]:
    return (
        row.name,
        state_cell(row.state),
        row.model or "-",
        f"{row.slots_busy}/{row.slots}",
        count(row.completed),
        Cell(count(row.failed), "red" if row.failed else "dim"),
        "-" if row.tokens_per_s is None else count(row.tokens_per_s),
        *(() if short else (count(row.tokens_out), ",".join(map(str, row.gpus)) or "-")),
        _doing(row, held),
    )
