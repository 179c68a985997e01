"""``swarm queue clear-stuck``: requeues stuck tasks and reclaims those of dead workers.

A living worker requeues its own tasks, at the command's request.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Literal

import msgspec

from swarm.config.settings import Settings
from swarm.core.health.liveness import stuck
from swarm.core.snapshot import ClaimView, SwarmSnapshot
from swarm.core.task import TERMINAL, TaskState
from swarm.errors import InputError, name_hint
from swarm.queue.file_queue import FileQueue
from swarm.runtime.open import lives, open_queue, reclaim

PATIENCE_S = 10.0
"""How long a worker has to release a task: it looks for such requests several times a second."""
_POLL_S = 0.05

Word = Literal["given back", "taken back", "finished", "left to the brain", "no reaction"]


class Cleared(msgspec.Struct, frozen=True):
    """The outcome for one stuck task."""

    task_id: str
    worker: str
    outcome: Word
    detail: str = ""


def clear(settings: Settings, snapshot: SwarmSnapshot, worker: str | None) -> list[Cleared]:
    """What is stuck, or all that ``worker`` holds. Takes up to ``PATIENCE_S``. Raises ``InputError``: no such worker."""
    claims = _chosen(snapshot, settings, worker)
    dead = sorted({c.worker for c in claims if not _alive(snapshot, c.worker)})
    done = [line for name in dead for line in _take_back(settings, name, [c for c in claims if c.worker == name])]
    return done + _give_back(open_queue(settings), [c for c in claims if c.worker not in dead])


def _chosen(snapshot: SwarmSnapshot, settings: Settings, worker: str | None) -> tuple[ClaimView, ...]:
    if worker is None:
        late = {(c.worker, c.task_id) for c in stuck(snapshot, settings)}
        return tuple(c for c in snapshot.claims if (c.worker, c.task_id) in late or not _alive(snapshot, c.worker))
    names = sorted({w.name for w in snapshot.workers} | {c.worker for c in snapshot.claims})
    if worker not in names:
        raise InputError(f"there is no worker {worker}", hint=name_hint(worker, names))
    return tuple(c for c in snapshot.claims if c.worker == worker)


def _alive(snapshot: SwarmSnapshot, worker: str) -> bool:
    view = snapshot.worker(worker)
    return view is not None and view.alive


def _take_back(settings: Settings, worker: str, claims: list[ClaimView]) -> list[Cleared]:
    """A dead worker's tasks: left to the brain, or reclaimed here under the free process lock where no brain runs."""
    if lives(settings, "brain"):
        text = "its worker is dead, the brain requeues it within a second"
        return [Cleared(c.task_id, worker, "left to the brain", text) for c in claims]
    lines = reclaim(settings, worker)
    if lines is None:
        text = f"{worker} is running again, or a program of it cannot be ended; swarm doctor {worker}"
        return [Cleared(c.task_id, worker, "no reaction", text) for c in claims]
    by_id = {c.task_id: next((line for line in lines if c.task_id in line), "its state had changed") for c in claims}
    return [Cleared(i, worker, "taken back", line) for i, line in by_id.items()]


def _give_back(queue: FileQueue, claims: Iterable[ClaimView]) -> list[Cleared]:
    """Have the workers requeue these. A worker that does not react keeps its task, and is asked no more."""
    waiting = {claim.task_id: claim for claim in claims}
    done: list[Cleared] = []
    try:
        for task_id in waiting:
            queue.ask_requeue(task_id)
        deadline_s = time.monotonic() + PATIENCE_S
        while waiting:
            for claim in list(waiting.values()):
                ended = _settled(queue, claim, late=time.monotonic() > deadline_s)
                if ended is not None:
                    done.append(ended)
                    del waiting[claim.task_id]
            if waiting:
                time.sleep(_POLL_S)
    finally:
        for task_id in waiting:  # cut off: the next attempt must not meet the request
            queue.forget_requeue(task_id)
    return done


def _settled(queue: FileQueue, claim: ClaimView, *, late: bool) -> Cleared | None:
    """How it ended, None while it still runs."""
    asked = queue.requeue_asked(claim.task_id)
    located = queue.find(claim.task_id)
    state = located.state if located is not None else None
    if state is None or state in TERMINAL:
        queue.forget_requeue(claim.task_id)
        return Cleared(claim.task_id, claim.worker, "finished", f"it is {state or 'gone'}")
    if not asked:
        again = "runs again" if state is TaskState.PROCESSING else "waits again"
        return Cleared(claim.task_id, claim.worker, "given back", again)
    if not late or not queue.forget_requeue(claim.task_id):  # else its worker was quicker, and the next look tells
        return None
    text = f"{claim.worker} did not release it within {PATIENCE_S:.0f}s; swarm doctor {claim.worker}"
    return Cleared(claim.task_id, claim.worker, "no reaction", text)
