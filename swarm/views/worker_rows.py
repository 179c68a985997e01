"""Workers and cards: rows for ``--json``, and their tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec

from swarm.config.settings import Settings
from swarm.core.health.liveness import condition, workers_of
from swarm.core.rates import lifetime_j, rates_of, share_of_best
from swarm.core.snapshot import SwarmSnapshot, WorkerView
from swarm.core.worker import WorkerStatus
from swarm.views.blocks import Block, Cell, Line, Table, columns, state_cell
from swarm.views.node_words import node_cells, several_nodes, worker_heads
from swarm.views.words import count, duration, mib, percent, plural

if TYPE_CHECKING:
    from swarm.views.task_rows import ActiveRow


class WorkerLine(msgspec.Struct, frozen=True, kw_only=True):
    """One worker."""

    name: str
    node: str
    """Machine of its cards; empty: this one."""
    state: str
    """The verdict of ``swarm.core.health.liveness``; for a healthy worker its own word (idle, busy, loading)."""
    reason: str
    alive: bool
    model: str | None
    tasks: tuple[str, ...]
    slots_busy: int
    slots: int
    live_in_flight: int
    """Live requests that it runs; they are no tasks."""
    live_limit: int
    """Live requests that it takes at once for its model; 0: none now."""
    yielded: int
    """Batch requests that it stopped for live ones; their tasks used no attempt."""
    completed: int
    failed: int
    tokens_in: int
    tokens_out: int
    tokens_in_per_s: float | None
    """This and the next of about the last minute; None while it answers nothing, and until enough was measured."""
    tokens_per_s: float | None
    """Generated."""
    best_tokens_per_s: float | None
    """The best that this card has shown for its model; None while unknown."""
    share_of_best: float | None
    """From 0 to 1."""
    slots_history: tuple[tuple[int, float], ...]
    """Requests at once, and the tokens per second they gave, as it tried them for its model; the newest last."""
    power_w: float | None
    """Mean of its cards over about the last minute; None where a driver does not say. Made up where it is simulated."""
    energy_j: float | None
    """Used by its cards since its start."""
    j_per_1k_tokens: float | None
    """For 1,000 generated tokens, over about the last minute."""
    idle_s: float
    gpus: tuple[int, ...]
    port: int | None
    url: str | None
    engines: tuple[str, ...]
    adopted: bool
    server_version: str
    """Of its engine's server; empty where that is not known."""
    simulated: bool
    pid: int | None
    started_at: str | None


class CardRow(msgspec.Struct, frozen=True, kw_only=True):
    """One card. None: the driver did not say."""

    node: str
    """Machine that it is in; empty: this one."""
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


MOST_TASKS = 4
"""Tasks named in a worker's line; `swarm queue active` shows all."""


def worker_lines(snapshot: SwarmSnapshot, settings: Settings) -> tuple[WorkerLine, ...]:
    """All workers, by name; the brain and the servers are not among them."""
    return tuple(_worker_line(view, snapshot, settings) for view in workers_of(snapshot))


def _worker_line(view: WorkerView, snapshot: SwarmSnapshot, settings: Settings) -> WorkerLine:
    verdict = condition(view, snapshot, settings)
    beat = view.heartbeat
    healthy = verdict.state in ("ready", "no_server") and beat is not None
    row = view.row
    rates = rates_of(beat) if view.alive else None
    tuned = beat.tuned.get(beat.model or "") if beat else None
    live = beat.live if beat and view.alive else None
    return WorkerLine(
        name=view.name,
        node=row.node if row else "",
        state=str(beat.status) if healthy and beat else verdict.state,
        reason=(beat.reason if beat else "") if healthy else verdict.text,
        alive=view.alive,
        model=beat.model if beat and view.alive else None,
        tasks=tuple(c.task_id for c in snapshot.claims if c.worker == view.name),
        slots_busy=sum(1 for c in snapshot.claims if c.worker == view.name and c.task_class in (None, "llm")),
        slots=tuned.in_flight if tuned else row.llm_slots if row else 1,
        live_in_flight=live.in_flight if live else 0,
        live_limit=live.limit if live else 0,
        yielded=live.yielded if live else 0,
        completed=beat.tally.completed if beat else 0,
        failed=beat.tally.failed if beat else 0,
        tokens_in=beat.tally.tokens_in if beat else 0,
        tokens_out=beat.tally.tokens_out if beat else 0,
        tokens_in_per_s=(rates.tokens_in_per_s or None) if rates else None,
        tokens_per_s=(rates.tokens_out_per_s or None) if rates else None,
        best_tokens_per_s=(tuned.best_tokens_per_s or None) if tuned else None,
        share_of_best=share_of_best(beat, rates) or None,
        slots_history=tuned.history if tuned else (),
        power_w=rates.watts if rates else None,
        energy_j=lifetime_j(beat) if beat else None,
        j_per_1k_tokens=rates.j_per_1k_tokens if rates else None,
        idle_s=beat.idle_s if beat and beat.status is WorkerStatus.IDLE else 0.0,
        gpus=row.gpus if row else (),
        port=row.port if row else None,
        url=row.url if row else None,
        engines=row.engines if row and row.url else (),
        adopted=bool(row and row.adopted),
        server_version=beat.server_version if beat and view.alive else "",
        simulated=bool(row and row.simulated),
        pid=row.process.pid if row and view.alive else None,
        started_at=row.started_at if row else None,
    )


def card_rows(snapshot: SwarmSnapshot) -> tuple[CardRow, ...]:
    """All cards, each with the worker that owns it: those of this machine first, then by node."""
    owners = {(view.row.node, uuid): view for view in workers_of(snapshot) if view.row for uuid in view.row.gpu_uuids}
    rows = []
    for gpu in sorted(snapshot.gpus, key=lambda gpu: gpu.node):
        owner = owners.get((gpu.node, gpu.uuid)) or owners.get((gpu.node, str(gpu.index)))
        beat = owner.heartbeat if owner and owner.alive else None
        rows.append(
            CardRow(
                node=gpu.node,
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
    """Cards with memory, load, temperature, power; their nodes where not all are of this machine."""
    nodes = several_nodes(rows)
    worker, *node = worker_heads(nodes)
    heads = columns(*node, "gpu>", "card~", worker, "memory>", "load>", "temp>", "power>", "model~")
    cells = tuple((*node_cells(row.node, nodes), *_card_cells(row)) for row in rows)
    return Table(columns=heads, rows=cells, empty="no GPU found: `swarm up --simulate 2` works without")


def _card_cells(row: CardRow) -> tuple[Cell | str, ...]:
    name = f"{row.name} (simulated)" if row.simulated and "simulated" not in row.name.lower() else row.name
    model = Cell(row.fault, "bold red") if row.fault else Cell(row.model or "-")
    temperature = "-" if row.temperature_c is None else f"{row.temperature_c}C"
    power = "-" if row.power_w is None else f"{row.power_w:.0f}W"
    memory = mib(row.memory_used_mib, row.memory_total_mib)
    return (str(row.index), name, row.worker or "-", memory, percent(row.utilisation_pct), temperature, power, model)


def workers_table(rows: Sequence[WorkerLine], *, short: bool = False, active: Sequence[ActiveRow] = ()) -> Table:
    """Workers; ``short`` leaves out what the cards' table and `swarm workers` show. ``active``: how far their tasks are.

    Their nodes are shown where not all are of this machine. Places of live requests are shown once there were such.
    """
    more = () if short else ("tokens>?", "gpus?")
    best = any(row.share_of_best is not None for row in rows) and short
    rates = ("tok/s>", "best>?") if best else ("tok/s>",)
    live = any(row.live_in_flight or row.yielded for row in rows)
    places = () if not live else ("live>",) if short else ("live>", "yielded>")
    nodes = several_nodes(rows)
    who = worker_heads(nodes)
    heads = columns(*who, "state", "model~", "slots>", *places, "done>?", "failed>?", *rates, *more, "doing~")
    held = {task.task_id: task for task in active}
    cells = tuple(
        (row.name, *node_cells(row.node, nodes), *_worker_cells(row, short=short, live=live, best=best, held=held))
        for row in rows
    )
    return Table(columns=heads, rows=cells, empty="no workers are registered: `swarm up` starts one per card")


def gave_blocks(rows: Sequence[WorkerLine]) -> list[Block]:
    """What each worker that answers gave in the last minute; nothing while none does."""
    known = [row for row in rows if row.tokens_per_s is not None or row.tokens_in_per_s is not None or row.slots_history]
    if not known:
        return []
    heads = columns("worker", "tok/s in>", "tok/s out>", "of best>", "power>", "J/1k tok>?", "tok/s by slots~?")
    return [Line(""), Table(columns=heads, rows=tuple(_gave_cells(row) for row in known))]


def _gave_cells(row: WorkerLine) -> tuple[str, ...]:
    power = "-" if row.power_w is None else f"{row.power_w:.0f}W"
    return (
        row.name,
        _number(row.tokens_in_per_s),
        _number(row.tokens_per_s),
        _share(row),
        power,
        _number(row.j_per_1k_tokens),
        slots_words(row.slots_history) or "-",
    )


def slots_words(history: Sequence[tuple[int, float]]) -> str:
    """``1: 41, 2: 80, 4: 151``: requests at once and the tokens per second they gave, the newest last."""
    return ", ".join(f"{slots}: {count(rate)}" for slots, rate in history)


def _number(value: float | None) -> str:
    return "-" if value is None else count(value)


def _share(row: WorkerLine) -> str:
    return percent(None if row.share_of_best is None else row.share_of_best * 100)


def _doing(row: WorkerLine, held: Mapping[str, ActiveRow]) -> str:
    """``d5de16d7 7s +42``: the tasks in a worker's hands with age and progress, else why it does nothing."""
    live = [plural(row.live_in_flight, "live request")] if row.live_in_flight else []
    if (row.tasks or live) and row.alive:
        shown = [_task_words(task_id, held.get(task_id)) for task_id in row.tasks[:MOST_TASKS]]
        more = len(row.tasks) - len(shown)
        return ", ".join([*live, *shown, *([f"{more} more"] if more else [])])
    idle = f"idle {duration(row.idle_s)}" if row.idle_s else ""
    return "; ".join(part for part in (idle, row.reason) if part) or "-"


def _task_words(task_id: str, task: ActiveRow | None) -> str:
    if task is None:
        return task_id
    stuck = " STUCK" if task.stuck else ""
    return f"{task_id} {duration(task.elapsed_s)}{f' +{count(task.progress)}' if task.progress else ''}{stuck}"


def _worker_cells(
    row: WorkerLine, *, short: bool, live: bool, best: bool, held: Mapping[str, ActiveRow]
) -> tuple[Cell | str, ...]:
    return (
        state_cell(row.state),
        row.model or "-",
        f"{row.slots_busy}/{row.slots}",
        *((f"{row.live_in_flight}/{row.live_limit}",) if live else ()),
        *((count(row.yielded),) if live and not short else ()),
        count(row.completed),
        Cell(count(row.failed), "red" if row.failed else "dim"),
        _number(row.tokens_per_s),
        *((_share(row),) if best else ()),
        *(() if short else (count(row.tokens_out), ",".join(map(str, row.gpus)) or "-")),
        _doing(row, held),
    )
