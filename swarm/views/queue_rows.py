"""The queue in numbers, and what waits in each lane: rows for ``--json``, and their tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from swarm.core.health.liveness import workers_of
from swarm.core.lanes import parse_lane
from swarm.core.placement.speeds import Speeds, eta_s, speeds
from swarm.core.snapshot import LaneView, SwarmSnapshot
from swarm.views.blocks import Block, Cell, Line, Table, columns, state_cell
from swarm.views.words import duration

if TYPE_CHECKING:
    from swarm.queue.counts import Counts


class PendingStats(msgspec.Struct, frozen=True, kw_only=True):
    """Tasks that wait for a worker."""

    total: int
    by_class: dict[str, int]
    by_model: dict[str, int]


class QueueStats(msgspec.Struct, frozen=True, kw_only=True):
    """The queue in numbers."""

    pending: PendingStats
    blocked: int
    processing: int
    processing_by_worker: dict[str, int]
    completed: int
    """This and the next two without the loads that the brain inserts."""
    failed: int
    cancelled: int
    corrupt: int
    drop_ins: int
    """Files put into ``pending/`` by hand that the brain has not checked yet."""
    stuck: int
    oldest_pending_s: float | None


class LaneRow(msgspec.Struct, frozen=True, kw_only=True):
    """What waits in one lane."""

    lane: str
    task_class: str
    model: str | None
    waiting: int
    oldest_s: float
    loaded_on: tuple[str, ...]
    """Workers that hold its model."""
    eta_s: float | None
    """Seconds until the last of them is done, by those workers, each at its own speed; None while unknown."""


def queue_stats(counts: Counts, *, stuck_tasks: int) -> QueueStats:
    """The queue in numbers."""
    by_class: Counter[str] = Counter()
    by_model: Counter[str] = Counter()
    for lane, waiting in counts.pending.items():
        parsed = parse_lane(lane)
        by_class[str(parsed[0]) if parsed else lane] += waiting
        if parsed and parsed[0] == "llm" and parsed[1]:
            by_model[parsed[1]] += waiting
    return QueueStats(
        pending=PendingStats(
            total=by_class.total(), by_class=dict(sorted(by_class.items())), by_model=dict(by_model.most_common())
        ),
        blocked=counts.blocked,
        processing=sum(counts.processing.values()),
        processing_by_worker=dict(sorted(counts.processing.items())),
        completed=counts.completed,
        failed=counts.failed,
        cancelled=counts.cancelled,
        corrupt=counts.corrupt,
        drop_ins=counts.drop_ins,
        stuck=stuck_tasks,
        oldest_pending_s=counts.oldest_pending_s,
    )


def lane_rows(snapshot: SwarmSnapshot) -> tuple[LaneRow, ...]:
    """Every lane with waiting tasks, the fullest first."""
    learned = speeds(snapshot)
    rows = [_lane_row(lane, snapshot, learned) for lane in snapshot.lanes if lane.pending]
    return tuple(sorted(rows, key=lambda row: (-row.waiting, row.lane)))


def _lane_row(lane: LaneView, snapshot: SwarmSnapshot, learned: Speeds) -> LaneRow:
    model = lane.model or ""
    holders = [v.name for v in workers_of(snapshot) if v.alive and v.heartbeat and model and v.heartbeat.model == model]
    running = sum(c.worker in holders and c.model == model and c.task_class == "llm" for c in snapshot.claims)
    known = learned.measured(model)
    return LaneRow(
        lane=lane.lane,
        task_class=str(lane.task_class),
        model=lane.model,
        waiting=lane.pending,
        oldest_s=lane.oldest_wait_s,
        loaded_on=tuple(holders),
        eta_s=eta_s(lane.pending, running, (learned.per_s(name, model) for name in holders)) if known else None,
    )


def queue_blocks(stats: QueueStats, *, lanes: Sequence[LaneRow] = ()) -> list[Block]:
    """The queue by state, class and model; with ``lanes`` also for how long, and until when."""
    states = ("blocked", "processing", "completed", "failed", "cancelled", "corrupt")
    numbers = [Cell(f"{getattr(stats, name):,}", state_cell(name).style) if getattr(stats, name) else "0" for name in states]
    stuck = Cell(str(stats.stuck), "bold red") if stats.stuck else "0"
    heads = columns("pending>", *(f"{name}>" for name in states), "stuck>")
    blocks: list[Block] = [Table(columns=heads, rows=((f"{stats.pending.total:,}", *numbers, stuck),))]
    if stats.pending.total:
        classes = ", ".join(f"{name} {number:,}" for name, number in stats.pending.by_class.items())
        blocks.append(Line(f"waiting: {classes}; the oldest for {duration(stats.oldest_pending_s)}"))
    if lanes:
        blocks += [Line(""), lanes_table(lanes)]
    elif stats.pending.by_model:
        rows = tuple((model, f"{number:,}") for model, number in stats.pending.by_model.items())
        blocks += [Line(""), Table(columns=columns("model", "waiting>"), rows=rows)]
    if stats.drop_ins:
        blocks.append(Line(f"drop-ins not yet checked: {stats.drop_ins:,}"))
    return blocks


def lanes_table(rows: Sequence[LaneRow]) -> Table:
    """What waits, by class and model."""
    heads = columns("waiting for~", "tasks>", "oldest>", "to go>", "loaded on~")
    return Table(columns=heads, rows=tuple(_lane_cells(row) for row in rows), empty="nothing waits")


def _lane_cells(row: LaneRow) -> tuple[Cell | str, ...]:
    nobody = Cell("nobody", "yellow") if row.model else Cell("-")
    on = Cell(", ".join(row.loaded_on)) if row.loaded_on else nobody
    name = f"llm {row.model}" if row.task_class == "llm" else row.lane.replace("@", " ")
    return (name, f"{row.waiting:,}", duration(row.oldest_s), duration(row.eta_s), on)
