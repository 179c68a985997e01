"""The lines operators grep for: MONITOR and the list of stuck tasks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from swarm.config.settings import Settings
from swarm.core.health.liveness import workers_of
from swarm.core.health.stuck import stuck
from swarm.core.snapshot import ClaimView, SwarmSnapshot


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
    """Something waits or runs."""
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
