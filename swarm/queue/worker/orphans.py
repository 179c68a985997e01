"""Recovers a dead worker's claims, under that worker's own process lock.

Holding the lock proves that the worker does not live.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import msgspec

from swarm.clock import iso_of, now_iso
from swarm.core.task import Attempt, TaskError, TaskState, Trail
from swarm.errors import StorageFault, TaskInvalid
from swarm.filesystem.entries import list_names, status_of
from swarm.plain_text import one_line
from swarm.queue import codec
from swarm.queue.layout import Layout, TaskName, parse_task_file
from swarm.queue.storage import Storage, storage_faults
from swarm.queue.worker.transitions import Transitions

log = logging.getLogger(__name__)


CrashRule = Callable[[tuple[Attempt, ...]], float | None]
"""``rule(attempts)``, the one that just crashed included: the delay before the next attempt, None to give up."""


def reclaim(layout: Layout, storage: Storage, worker: str, rule: CrashRule) -> tuple[str, ...]:
    """Requeue or dead-letter every task in ``processing/<worker>``; one line per task for the log.

    The caller holds the worker's process lock. Safe to repeat: a crash in here leaves each task where it was or where it
    goes. Raises ``StorageFault``.
    """
    recovery = _Recovery(layout, storage, worker, rule)
    lines = []
    with storage_faults(f"cannot list the tasks of {worker}"):
        names = sorted(list_names(layout.held_by(worker)))
    kept: list[StorageFault] = []
    for name in names:
        try:
            lines.append(recovery.reclaim_entry(name))
        except StorageFault as fault:  # one that cannot be moved holds up no other
            kept.append(fault)
    if kept:
        for line in filter(None, lines):
            log.info("%s", line)
        raise kept[0]
    return tuple(line for line in lines if line)


class _Recovery:
    def __init__(self, layout: Layout, storage: Storage, worker: str, rule: CrashRule) -> None:
        self._layout = layout
        self._storage = storage
        self._transitions = Transitions(layout, storage)
        self._worker = worker
        self._rule = rule

    def reclaim_entry(self, name: str) -> str:
        """Whatever lies there under this name; a line for the log. Raises ``StorageFault``."""
        path = f"{self._layout.held_by(self._worker)}/{name}"
        parsed = parse_task_file(name)
        with storage_faults(f"cannot requeue {one_line(name)} of {self._worker}"):
            if parsed is not None:
                return self._reclaim(path, parsed)
            self._storage.quarantine(path, f"a foreign file among the tasks of {self._worker}")
        return f"Moved {name} to corrupt/: it is no task file"

    def _reclaim(self, path: str, name: TaskName) -> str:
        try:
            parts = codec.read(path)
        except FileNotFoundError:
            return ""
        except (TaskInvalid, ValueError) as exc:
            self._storage.quarantine(path, str(exc))
            return f"Moved {name.task_id} to corrupt/: {exc}"
        if parts.trail.status is not None:  # the work was done and written, only the commit is missing
            self._transitions.end(path, parts.task, parts.body_size, TaskState(parts.trail.status), parts.trail)
            return f"Recorded {name.task_id}: {self._worker} died between writing its outcome and filing it"
        return self._requeue_or_fail(path, name, parts)

    def _requeue_or_fail(self, path: str, name: TaskName, parts: codec.Parts) -> str:
        trail = _crash_recorded(parts.trail, path, name.attempt, self._worker)
        delay_s = self._rule(trail.attempts)
        if delay_s is None:
            crashes = sum(1 for attempt in trail.attempts if attempt.outcome == "crashed")
            error = TaskError(type="crash", message=f"its worker died {crashes} times while holding it")
            dead = msgspec.structs.replace(trail, status="failed", completed_at=now_iso(), error=error)
            self._transitions.end(path, parts.task, parts.body_size, TaskState.FAILED, dead)
            return f"Failed {name.task_id}: {error.message}"
        if delay_s > 0:
            trail = msgspec.structs.replace(trail, retry_at=now_iso(delay_s))
        self._transitions.requeue(path, parts.task, parts.body_size, trail, attempt=name.attempt, delayed=delay_s > 0)
        return f"Requeued {name.task_id}: {self._worker} died in attempt {name.attempt}"


def _crash_recorded(trail: Trail, path: str, attempt: int, worker: str) -> Trail:
    """The outcome so far, with the crashed attempt in it."""
    crashed = Attempt(
        attempt=attempt,
        worker=worker,
        started_at=_claimed_at(path),
        ended_at=now_iso(),
        outcome="crashed",
        fault="crash",
        error=TaskError(type="crash", message="the worker died", retryable=True),
    )
    earlier = trail.attempts
    if earlier and (earlier[-1].attempt, earlier[-1].outcome) == (attempt, "crashed"):
        return Trail(attempts=earlier)  # a recovery that died after writing it down: one death is counted once
    return Trail(attempts=(*earlier, crashed))


def _claimed_at(path: str) -> str:
    """When the file was renamed into ``processing``: the inode's change time, or later if a tail was begun."""
    status = status_of(path)
    return "" if status is None else iso_of(status.st_ctime)
