"""From what was observed to what is shown: pure functions from snapshot and counts to views."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from swarm.cli.views.views import ActiveRow, CardRow, LaneRow, ModelRow, PendingStats, QueueStats, TaskRow, WorkerLine
from swarm.config.settings import Settings
from swarm.core.health.liveness import condition, stuck, workers_of
from swarm.core.lanes import parse_lane
from swarm.core.snapshot import ClaimView, LaneView, SwarmSnapshot, WorkerView
from swarm.core.worker import Heartbeat, ModelTally, SlotView, WorkerStatus

if TYPE_CHECKING:
    from swarm.cli.views.installed_models import OnDisk
    from swarm.queue.lookup import Located
    from swarm.queue.stats.counts import Counts


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


def task_row(located: Located, document: Mapping[str, Any] | None, *, reason: str = "") -> TaskRow:
    """One line of a listing; ``document`` is None where it could not be read (it moved on, or is corrupt).

    ``reason``: why a file was set aside as corrupt.
    """
    doc = document or {}
    parsed = parse_lane(located.lane) if located.lane else None
    error = doc.get("error") or {}
    return TaskRow(
        task_id=located.task_id,
        state=str(doc.get("state", located.state)),
        attempt=located.attempt or len(doc.get("attempts", ())),
        task_class=doc.get("task_class") or (str(parsed[0]) if parsed else None),
        model=doc.get("model") or (parsed[1] if parsed and parsed[0] == "llm" else None),
        name=str(doc.get("name", "")),
        priority=doc.get("priority"),
        worker=located.worker,
        created_at=doc.get("created_at"),
        completed_at=doc.get("completed_at"),
        simulated=bool(doc.get("simulated", False)),
        error=f"{error.get('type')}: {error.get('message')}" if error else reason or None,
    )


def active_rows(snapshot: SwarmSnapshot, settings: Settings) -> tuple[ActiveRow, ...]:
    """What is in the workers' hands, by worker, the oldest first."""
    late = {claim.task_id for claim in stuck(snapshot, settings)}
    rows = [_active(claim, snapshot.worker(claim.worker), is_stuck=claim.task_id in late) for claim in snapshot.claims]
    return tuple(sorted(rows, key=lambda row: (row.worker, -row.elapsed_s, row.task_id)))


def _active(claim: ClaimView, worker: WorkerView | None, *, is_stuck: bool) -> ActiveRow:
    beat = worker.heartbeat if worker else None
    slot = next((s for s in beat.slots if s.task_id == claim.task_id), None) if beat else None
    known = slot or SlotView(task_id=claim.task_id, task_class=claim.task_class or "", phase="")
    return ActiveRow(
        worker=claim.worker,
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


def worker_lines(snapshot: SwarmSnapshot, settings: Settings) -> tuple[WorkerLine, ...]:
    """All workers, by name; the brain and the servers are not among them."""
    return tuple(_worker(view, snapshot, settings) for view in workers_of(snapshot))


def _worker(view: WorkerView, snapshot: SwarmSnapshot, settings: Settings) -> WorkerLine:
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
    tally = heartbeat_tally(beat, beat.model if beat else None)
    ended = tally.completed + tally.failed if tally else 0
    if beat is None or tally is None or tally.busy_s <= 0 or not ended:
        return 0.0, 0.0
    busy = sum(1 for slot in beat.slots if slot.task_class == "llm")
    return busy * ended / tally.busy_s, busy * tally.tokens_out / tally.busy_s


def lane_rows(snapshot: SwarmSnapshot) -> tuple[LaneRow, ...]:
    """Every lane with waiting tasks, the fullest first."""
    rows = [_lane(lane, snapshot) for lane in snapshot.lanes if lane.pending]
    return tuple(sorted(rows, key=lambda row: (-row.waiting, row.lane)))


def _lane(lane: LaneView, snapshot: SwarmSnapshot) -> LaneRow:
    views = [v for v in workers_of(snapshot) if v.alive and v.heartbeat]
    holders = [v for v in views if lane.model is not None and v.heartbeat and v.heartbeat.model == lane.model]
    per_s = 0.0
    for view in holders:
        tally = heartbeat_tally(view.heartbeat, lane.model)
        ended = tally.completed + tally.failed if tally else 0
        if tally and ended and tally.busy_s > 0:
            per_s += (view.row.llm_slots if view.row else 1) * ended / tally.busy_s
    return LaneRow(
        lane=lane.lane,
        task_class=str(lane.task_class),
        model=lane.model,
        waiting=lane.pending,
        oldest_s=lane.oldest_wait_s,
        loaded_on=tuple(v.name for v in holders),
        eta_s=lane.pending / per_s if per_s else None,
    )


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


def model_rows(snapshot: SwarmSnapshot, installed: Mapping[str, OnDisk] | None = None) -> tuple[ModelRow, ...]:
    """Every model that is loaded, waited for, was run by a worker that is known, or lies on a server's disk."""
    disk = installed or {}
    views = workers_of(snapshot)
    loaded = {v.name: v.heartbeat.model for v in views if v.alive and v.heartbeat and v.heartbeat.model}
    waiting = snapshot.llm_pending()
    running = Counter(c.model for c in snapshot.claims if c.model and c.task_class in (None, "llm"))
    tallies: dict[str, list[ModelTally]] = {}
    for view in views:
        for model, tally in (view.heartbeat.models if view.heartbeat else {}).items():
            tallies.setdefault(model, []).append(tally)
    names = sorted({*loaded.values(), *waiting, *running, *tallies, *disk})
    where = {name: tuple(w for w, m in loaded.items() if m == name) for name in names}
    rows = (_model(n, where[n], waiting.get(n, 0), running[n], tallies.get(n, [])) for n in names)
    return tuple(_on_disk(row, disk.get(row.model)) for row in rows)


def _on_disk(row: ModelRow, found: OnDisk | None) -> ModelRow:
    if found is None:
        return row
    return msgspec.structs.replace(row, installed_on=found.workers, disk_mib=found.size_mib)


def _model(name: str, loaded_on: tuple[str, ...], waiting: int, running: int, tallies: list[ModelTally]) -> ModelRow:
    completed, failed = sum(t.completed for t in tallies), sum(t.failed for t in tallies)
    busy_s = sum(t.busy_s for t in tallies)
    return ModelRow(
        model=name,
        loaded_on=loaded_on,
        waiting=waiting,
        running=running,
        completed=completed,
        failed=failed,
        size_mib=max((t.size_mib for t in tallies), default=0) or None,
        size_vram_mib=max((t.size_vram_mib for t in tallies), default=0) or None,
        load_s=_ratio(sum(t.load_s for t in tallies), sum(t.loads for t in tallies)),
        task_s=_ratio(busy_s, completed + failed),
        tokens_per_s=_ratio(sum(t.tokens_out for t in tallies), busy_s),
    )


def heartbeat_tally(beat: Heartbeat | None, model: str | None) -> ModelTally | None:
    """What a worker learned of the model it holds."""
    return beat.models.get(model) if beat and model else None


def _ratio(total: float, number: float) -> float | None:
    return total / number if number > 0 and total > 0 else None
