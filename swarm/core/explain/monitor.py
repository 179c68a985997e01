"""The lines operators grep for: MONITOR and the list of stuck tasks.

What the configuration has switched off, in words for the log.

Why a worker has nothing to do, in words: for its log, its heartbeat and ``explain``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence

import msgspec

from swarm.config.settings import Settings
from swarm.core.health.liveness import stuck, workers_of
from swarm.core.lanes import llm_lane, parse_lane
from swarm.core.snapshot import ClaimView, SwarmSnapshot
from swarm.core.task import TaskClass


def monitor_line(snapshot: SwarmSnapshot, settings: Settings) -> str:
    """``MONITOR: GPUs: 2/5, Workers: 3/3, Queue: 123 (llm:123), Processing: 2, Stuck: 2``.

    GPUs: cards whose worker holds a model / all cards. Workers: alive / registered.
    """
    workers = workers_of(snapshot)
    holding = sum(len(w.row.gpus) or 1 for w in workers if w.alive and w.row and w.heartbeat and w.heartbeat.model)
    cards = len(snapshot.gpus) or sum(len(w.row.gpus) or 1 for w in workers if w.row and w.row.url)
    registered = [w for w in workers if w.row is not None]
    alive = sum(w.alive for w in registered)
    parts = [
        f"GPUs: {holding}/{max(cards, holding)}",
        f"Workers: {alive}/{len(registered)}",
        f"Queue: {_queue(snapshot)}",
        f"Processing: {len(snapshot.claims)}",
        f"Stuck: {len(stuck(snapshot, settings))}",
    ]
    blocked = snapshot.blocked_total or len(snapshot.blocked)
    if blocked:
        parts.append(f"Blocked: {blocked}")
    return f"MONITOR: {', '.join(parts)}"


def has_work(snapshot: SwarmSnapshot) -> bool:
    """Whether any task waits or runs."""
    return bool(snapshot.claims) or any(lane.pending for lane in snapshot.lanes)


def stuck_line(claims: Sequence[ClaimView]) -> str:
    """``Stuck tasks detected: [{'task_id': …, 'assigned_to': …, 'elapsed_min': 6, 'name': …}]``."""
    found = [
        {"task_id": c.task_id, "assigned_to": c.worker, "elapsed_min": int(c.elapsed_s // 60), "name": c.name}
        for c in claims
    ]
    return f"Stuck tasks detected: {found}"


def _queue(snapshot: SwarmSnapshot) -> str:
    by_class: Counter[str] = Counter()
    for lane in snapshot.lanes:
        by_class[str(lane.task_class)] += lane.pending
    total = by_class.total()
    detail = " ".join(f"{name}:{count}" for name, count in sorted(by_class.items()) if count)
    return f"{total} ({detail})" if total else "0"


def switched_off(settings: Settings) -> tuple[str, ...]:
    """One entry for each loop or warning that an interval of 0 turns off, with its key."""
    brain = settings.brain
    found = [
        ("the MONITOR line", "monitor_s", brain.monitor_s),
        ("looking for stuck tasks", "stuck_after_s", brain.stuck_after_s),
        ("counting stale tasks", "stale_queued_s", brain.stale_queued_s),
        ("warning of loads that wait", "load_warn_s", brain.load_warn_s),
    ]
    off = [f"{what} (brain.{key} = 0)" for what, key, value in found if not value]
    if not brain.retention_days and not brain.retention_count:
        off.append("purging of finished tasks (brain.retention_days and brain.retention_count = 0)")
    return tuple(off)


class IdleReason(msgspec.Struct, frozen=True):
    """``key`` changes when the reason does (not with every count); ``line`` is for the log, ``text`` for display."""

    key: str
    line: str
    text: str


def idle_reason(waiting: Mapping[str, int], *, worker: str, model: str | None, closed: str) -> IdleReason:
    """Why a worker with free slots claimed nothing while ``waiting`` (tasks per lane) lay in the queue.

    ``closed`` says why it takes no llm work (its server is down …), or is empty.
    """
    by_class = _by_class(waiting)
    if not by_class:
        return IdleReason("empty", "Queue empty", closed or "queue empty")
    preferred = preferred_classes(model)
    queue = ", ".join(f"{name}:{count}" for name, count in by_class.items())
    loaded = "False" if model is None else f"True ({model})"
    text = closed or _mismatch(waiting, worker=worker, model=model)
    line = f"No suitable tasks - Queue: [{queue}], Preferred: {preferred}, Model loaded: {loaded} - {text}"
    return IdleReason(f"{sorted(by_class)} {model} {closed}", line, text)


def preferred_classes(model: str | None) -> list[str]:
    """The order in which a worker prefers classes: its hot model first, scripts first while it is cold."""
    hot = (TaskClass.RESOURCE, TaskClass.LLM, TaskClass.SCRIPT, TaskClass.CPU)
    cold = (TaskClass.RESOURCE, TaskClass.SCRIPT, TaskClass.CPU, TaskClass.LLM)
    return [str(c) for c in (cold if model is None else hot)]


def suits(waiting: Collection[str], lanes: Collection[str]) -> bool:
    """Whether anything waits in the lanes a worker reads (it came just after the worker had looked)."""
    return any(lane in waiting for lane in lanes)


def _by_class(waiting: Mapping[str, int]) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for lane, count in waiting.items():
        parsed = parse_lane(lane)
        if parsed is not None and count > 0:
            counts[str(parsed[0])] += count
    return dict(counts)


def _mismatch(waiting: Mapping[str, int], *, worker: str, model: str | None) -> str:
    models = Counter[str]()
    others = 0
    for lane, count in waiting.items():
        match parse_lane(lane):
            case (TaskClass.LLM, str(wanted)) if model is None or lane != llm_lane(model):
                models[wanted] += count
            case (TaskClass.RESOURCE, str(target)) if target != worker:
                others += count
            case _:
                continue
    parts = [f"{count} llm tasks wait for {wanted}" for wanted, count in models.most_common(3)]
    if len(models) > 3:
        parts.append(f"{len(models) - 3} more models are waited for")
    if others:
        parts.append(f"{others} resource tasks are for other workers")
    held = "no model is loaded here" if model is None else f"loaded here is {model}"
    return "; ".join([*parts, held])
