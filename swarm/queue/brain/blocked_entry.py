"""One blocked file as the brain remembers it: what it waits for, without its request, for there may be very many."""

from __future__ import annotations

from typing import Literal

import msgspec

from swarm.clock import parse_iso
from swarm.core.lanes import lane_of
from swarm.core.policy.retry import Behind, waits_behind
from swarm.core.task import Task, TaskClass, Trail
from swarm.core.workflow.fan_out import child_ids
from swarm.core.workflow.templating import references
from swarm.errors import TaskInvalid
from swarm.queue import codec
from swarm.queue.ids import made_here, time_of
from swarm.queue.layout import Layout, parse_task_file
from swarm.queue.storage.files import Storage, read_regular

Order = tuple[float, str]


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One blocked file, as read."""

    name: str
    task_id: str
    attempt: int
    order: Order
    """When it was submitted."""
    lane: str
    priority: int
    session: str | None
    depends_on: tuple[str, ...]
    needs: tuple[str, ...]
    """Of these, all if its request asks for results: they must be there when it runs."""
    runs_anyway: bool
    due_s: float | None
    """Seconds since the epoch before which it must not run."""
    resource: bool
    batch_id: str | None
    step: Literal["release", "expand", "gather"]
    ran: bool
    """It was tried before."""
    behind: Behind
    """Let go it waits behind others, or behind those: it may be what breaks servers."""


def read_entry(layout: Layout, storage: Storage, name: str) -> Entry | None:
    """The entry of a file in ``blocked``; None when it is gone or foreign. What is no task is set aside."""
    parsed = parse_task_file(name)
    path = f"{layout.blocked}/{name}"
    if parsed is None:
        return None  # foreign: `swarm queue fsck` names it
    try:
        parts = codec.parse(read_regular(path, codec.MAX_FILE_BYTES))
    except FileNotFoundError:
        return None
    except (TaskInvalid, ValueError) as exc:
        storage.quarantine(path, str(exc))
        return None
    return _entry(name, parsed.attempt, parts.task, parts.trail)


def _entry(name: str, attempt: int, task: Task, trail: Trail) -> Entry:
    times = [_seconds(t) for t in (task.not_before, trail.retry_at) if t is not None]
    mapped = task.map is not None and trail.children is not None and trail.children >= 0
    was_let_go = attempt > 0 or trail.released  # what it depends on has ended, and may be purged since
    made_s = time_of(task.task_id)
    return Entry(
        name=name,
        task_id=task.task_id,
        attempt=attempt,
        order=(_seconds(task.created_at) if made_s is None else made_s, task.task_id),
        lane=lane_of(task),
        priority=task.priority,
        session=task.session,
        depends_on=child_ids(task.task_id, trail.children or 0) if mapped else () if was_let_go else task.depends_on,
        needs=task.depends_on if task.depends_on and _asks(task) else (),
        runs_anyway=task.on_dependency_failure == "run",
        due_s=max(times, default=None),
        resource=task.task_class is TaskClass.RESOURCE,
        batch_id=task.batch_id,
        step="release" if task.map is None else "gather" if mapped else "expand",
        ran=attempt > 0 or bool(trail.attempts),
        behind=waits_behind(trail.attempts),
    )


def _asks(task: Task) -> bool:
    return any(reference.startswith("results.") for reference in references(task.request))


def reading_order(name: str) -> tuple[bool, str]:
    """Ids made elsewhere do not tell when: those first."""
    return made_here(name.partition(".")[0]), name


def _seconds(text: str) -> float:
    """Seconds since the epoch; 0 for what is no time."""
    try:
        return parse_iso(text)
    except ValueError:
        return 0.0
