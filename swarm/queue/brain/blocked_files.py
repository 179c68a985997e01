"""The files in ``blocked/``, followed by their changes, and what each of them waits for.

Files of one submitter appear in order. A listing made meanwhile may show a later one and not an earlier one. For what a
listing shows that had ended before the next one began, the two together show all earlier ones.
"""

from __future__ import annotations

import time
from typing import Literal

import msgspec

from swarm.clock import parse_iso
from swarm.core.lanes import lane_of
from swarm.core.placement.demand import resource_task
from swarm.core.policy.retry import Behind, waits_behind
from swarm.core.snapshot import ResourceTask
from swarm.core.task import Task, Trail
from swarm.core.workflow.fan_out import child_ids
from swarm.core.workflow.templating import references
from swarm.errors import TaskInvalid
from swarm.filesystem.entries import list_names, status_of
from swarm.queue import codec
from swarm.queue.coordination import GONE, THERE, Inotify
from swarm.queue.layout import Layout, made_here, parse_task_file, time_of
from swarm.queue.storage import Storage

RELIST_S = 60.0
"""With inotify it is listed this often as well: inotify does not report files that another host put there."""


class BlockedEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One blocked file, as read; without its request, for there may be very many."""

    name: str
    task_id: str
    attempt: int
    order: tuple[float, str]
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
    resource: ResourceTask | None
    """Set for a load or unload that was tried before: one that waits to be tried at all keeps no card."""
    batch_id: str | None
    step: Literal["release", "expand", "gather"]
    ran: bool
    """It was tried before."""
    behind: Behind
    """Once released it waits behind others, or behind those: it may be what breaks servers."""


def read_entry(layout: Layout, storage: Storage, name: str) -> BlockedEntry | None:
    """The entry of a file in ``blocked``; None when it is missing or foreign. What is no task goes to ``corrupt/``."""
    parsed = parse_task_file(name)
    path = f"{layout.blocked}/{name}"
    if parsed is None:
        return None  # foreign: `swarm queue fsck` names it
    try:
        parts = codec.read(path)
        set_back_s = 0.0 if parts.trail.retry_at is None else _set_back_s(path)
        return _entry(name, parsed.attempt, parts.task, parts.trail, set_back_s)
    except FileNotFoundError:
        return None
    except (TaskInvalid, ValueError, RecursionError) as exc:
        storage.quarantine(path, str(exc))
        return None


def _set_back_s(path: str) -> float:
    """By how much the clock has been set back since the file was written, as far as that shows."""
    status = status_of(path)
    return 0.0 if status is None else max(0.0, status.st_mtime - time.time())


def _entry(name: str, attempt: int, task: Task, trail: Trail, set_back_s: float) -> BlockedEntry:
    times = [] if task.not_before is None else [_seconds(task.not_before)]
    if trail.retry_at is not None:  # a delay, whatever the clock says
        times.append(_seconds(trail.retry_at) - set_back_s)
    mapped = task.map is not None and trail.children is not None and trail.children >= 0
    was_released = attempt > 0 or trail.released  # what it depends on has ended, and may be purged since
    made_s = time_of(task.task_id)
    ran = attempt > 0 or bool(trail.attempts)
    return BlockedEntry(
        name=name,
        task_id=task.task_id,
        attempt=attempt,
        order=(_seconds(task.created_at) if made_s is None else made_s, task.task_id),
        lane=lane_of(task),
        priority=task.priority,
        session=task.session,
        depends_on=child_ids(task.task_id, trail.children or 0) if mapped else () if was_released else task.depends_on,
        needs=task.depends_on if any(one.startswith("results.") for one in references(task.request)) else (),
        runs_anyway=task.on_dependency_failure == "run",
        due_s=max(times, default=None),
        resource=resource_task(task) if ran else None,
        batch_id=task.batch_id,
        step="release" if task.map is None else "gather" if mapped else "expand",
        ran=ran,
        behind=waits_behind(trail.attempts),
    )


def reading_order(name: str) -> tuple[bool, str]:
    """Sort key: ids made elsewhere first, since they hold no time."""
    return made_here(name.partition(".")[0]), name


def _seconds(text: str) -> float:
    """Seconds since the epoch; 0 for what is no time."""
    try:
        return parse_iso(text)
    except ValueError:
        return 0.0


class Changes(msgspec.Struct, frozen=True):
    """Changes since the last call."""

    added: tuple[str, ...]
    """Also names that went and came back: their content may be another."""
    removed: tuple[str, ...]
    unsettled: frozenset[str] = frozenset()
    """Seen only in the last listing: a file before one of these may not be known yet."""


class BlockedNames:
    """Follows the names, through inotify with ``watch``, else by listing; for one thread."""

    def __init__(self, layout: Layout, *, watch: bool) -> None:
        self._folder = layout.blocked
        self._names: set[str] = set()
        self._events = Inotify.opened({layout.blocked: GONE | THERE}) if watch else None
        self._relist_s = float("-inf")

    def changes(self) -> Changes:
        """Costs what changed with inotify; else one or two listings. Raises ``OSError``."""
        if self._events is None:
            return self._listed_twice()
        told, whole = _told(self._events)
        if not whole or time.monotonic() >= self._relist_s:
            return self._listed(self._events, {name for name, there in told.items() if there})
        removed = tuple(name for name, there in told.items() if not there and name in self._names)
        added = tuple(name for name, there in told.items() if there)
        self._names.difference_update(removed)
        self._names.update(added)
        return Changes(added, removed)

    def _listed_twice(self) -> Changes:
        first = set(list_names(self._folder))
        now = first if first <= self._names else set(list_names(self._folder))
        return self._replaced(now, set(), frozenset(now - first - self._names))

    def _listed(self, events: Inotify, again: set[str]) -> Changes:
        self._relist_s = float("-inf")  # until it has come to its end
        now = set(list_names(self._folder))
        for name, there in _told(events)[0].items():  # what came during the listing
            (now.add if there else now.discard)(name)
        self._relist_s = time.monotonic() + RELIST_S
        return self._replaced(now, again, frozenset())

    def _replaced(self, now: set[str], again: set[str], unsettled: frozenset[str]) -> Changes:
        added, removed = (now - self._names) | (again & now), self._names - now
        self._names = now
        return Changes(tuple(added), tuple(removed), unsettled)


def _told(events: Inotify) -> tuple[dict[str, bool], bool]:
    """By name, in the order of the first event, whether it is there now; and whether no event was lost."""
    told: dict[str, bool] = {}
    whole = True
    for event in events.events():
        if event.name is None:
            whole = False
        else:
            told[event.name] = event.there
    return told, whole
