"""Liveness of a worker, as one verdict shared by placement, decisions and ``swarm explain``.

* Only the process lock shows death. Ages tell only a hung worker from a healthy one, and are not judged in a tick in which
  the observer itself was late.
* Stuck tasks are those claimed by a living worker, yet without progress for too long.
* ``monitor_line`` and ``stuck_line`` are what operators grep for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Literal

import msgspec

from swarm.config.settings import Settings
from swarm.core.snapshot import ClaimView, SwarmSnapshot, WorkerView
from swarm.core.worker import WorkerStatus

HUNG_FACTOR = 4
"""A worker is warned about at ``heartbeat_stale_s`` and killed at this many times it."""
State = Literal[
    "dead",
    "stopped",
    "silent",
    "stale",
    "hung",
    "starting",
    "unready",
    "draining",
    "no_server",
    "card_lost",
    "paused",
    "ready",
]


class Condition(msgspec.Struct, frozen=True):
    """The verdict on one worker and the words for it."""

    state: State
    text: str


def workers_of(snapshot: SwarmSnapshot) -> tuple[WorkerView, ...]:
    """The workers proper, by name: no brain, supervisor or server that registered beside them."""
    return tuple(sorted((w for w in snapshot.workers if w.row is None or w.row.role == "worker"), key=lambda w: w.name))


def condition(view: WorkerView, snapshot: SwarmSnapshot, settings: Settings) -> Condition:
    """The first thing that keeps this worker from llm work; ``ready`` if nothing does."""
    if not view.alive:
        return _ended(view)
    silence = _silence(view, snapshot, settings)
    if silence is not None:
        return silence
    pause = snapshot.pauses.worker(view.name)
    if pause is not None:
        return Condition("paused", f"{view.name} takes no new work: {pause.words}")
    return _own_word(view) or _card_lost(view, snapshot) or Condition("ready", f"{view.name} is ready")


def ready_workers(snapshot: SwarmSnapshot, settings: Settings) -> list[WorkerView]:
    """Those that take llm work now."""
    return [view for view in workers_of(snapshot) if condition(view, snapshot, settings).state == "ready"]


def _ended(view: WorkerView) -> Condition:
    """``stopped`` after a last heartbeat without a reason and with no claims left; else ``dead``."""
    beat = view.heartbeat
    goodbye = beat is not None and beat.status is WorkerStatus.STOPPED
    why = beat.reason if beat is not None and goodbye else ""
    if goodbye and not why and not view.claims:
        return Condition("stopped", f"{view.name} was stopped")
    return Condition("dead", f"{view.name} is not running: its process lock is free{f'; it {why}' if why else ''}")


def _silence(view: WorkerView, snapshot: SwarmSnapshot, settings: Settings) -> Condition | None:
    threshold_s = settings.worker.heartbeat_stale_s
    quiet_s = 0.0 if snapshot.grace else view.quiet_s
    turn_quiet_s = 0.0 if snapshot.grace or view.heartbeat is None else view.turn_quiet_s
    limits = f"(threshold: {threshold_s:.0f}s)"
    if view.heartbeat is None:
        text = f"Worker {view.name} lives but has sent no heartbeat for {quiet_s:.0f}s {limits}"
    elif turn_quiet_s > max(quiet_s, threshold_s):
        text = f"Worker {view.name} sends heartbeats, but its work loop has stood still for {turn_quiet_s:.0f}s {limits}"
    else:
        text = f"Worker {view.name} last heartbeat {quiet_s:.0f}s ago {limits}"
    worst_s = max(quiet_s, turn_quiet_s)
    if worst_s > HUNG_FACTOR * threshold_s:
        return Condition("hung", text)
    if worst_s > threshold_s:
        return Condition("stale", text)
    if view.heartbeat is None:
        return Condition("silent", f"{view.name} has not sent its first heartbeat yet")
    return None


def _own_word(view: WorkerView) -> Condition | None:
    """What its row and heartbeat say."""
    assert view.heartbeat is not None
    why = f": {view.heartbeat.reason}" if view.heartbeat.reason else ""
    match view.heartbeat.status:
        case WorkerStatus.STARTING:
            return Condition("starting", f"{view.name} is still starting{why}")
        case WorkerStatus.UNREADY:
            return Condition("unready", f"Worker {view.name} takes no llm work{why}")
        case WorkerStatus.DRAINING | WorkerStatus.STOPPED:
            return Condition("draining", f"{view.name} is shutting down and takes no new work{why}")
        case WorkerStatus.IDLE | WorkerStatus.BUSY | WorkerStatus.LOADING:
            pass
    if view.row is None or view.row.url is None:
        return Condition("no_server", f"{view.name} has no model server: it runs cpu and script tasks only")
    return None


def _card_lost(view: WorkerView, snapshot: SwarmSnapshot) -> Condition | None:
    for gpu in snapshot.gpus:
        if gpu.fault is not None and view.row is not None and gpu.is_one_of(view.row.gpu_uuids):
            return Condition("card_lost", f"GPU {gpu.index} of {view.name} cannot be read: {gpu.fault}")
    return None


def stuck(snapshot: SwarmSnapshot, settings: Settings) -> tuple[ClaimView, ...]:
    """Claims without a new token or output chunk for more than ``brain.stuck_after_s``, by task id.

    A dead worker's claims are not stuck: they are reclaimed in the same tick. Nobody is judged in a tick of grace, nor
    when ``brain.stuck_after_s`` is 0.
    """
    if snapshot.grace or not settings.brain.stuck_after_s:
        return ()
    alive = {w.name for w in snapshot.workers if w.alive}
    late = (c for c in snapshot.claims if c.worker in alive and c.quiet_s > settings.brain.stuck_after_s)
    return tuple(sorted(late, key=lambda c: c.task_id))


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
