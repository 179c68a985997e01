"""Finds a task, reads it, or lists a state or the quarantine. Reads only; needs no running swarm.

A look is not a snapshot: tasks move while directories are read. States are read in the direction tasks move, and what is not
found is looked for once more, so that a task on the move is still found.

The quarantine, ``corrupt/``, holds files that are no task or have no place, each with a reason. Nothing in it is deleted. A
task that waits for one in quarantine waits in vain: ``CorruptTasks`` knows those ids.
"""

from __future__ import annotations

import logging
import os
import re
import stat
import time
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

import msgspec

from swarm.core.lanes import parse_lane
from swarm.core.snapshot import DropIn
from swarm.core.task import ID_RE, TERMINAL, TaskState
from swarm.errors import QueueError, TaskInvalid, UnknownTask
from swarm.filesystem.entries import DirStamp, first_file, is_file, list_inside, list_names, read_file, stamp_of, status_of
from swarm.queue import codec
from swarm.queue.layout import Layout, is_shard, parse_task_file, task_file
from swarm.queue.pending import holds_requeued, list_lanes, sorted_buckets
from swarm.queue.storage import REASON, storage_faults
from swarm.queue.stores.registry import holders

_MOST_ATTEMPTS = 128
"""No blocked task has so many."""
PATIENCE_S = 2.0
"""A drop-in that does not parse may still be being copied: it is judged once it was left alone for so long."""


class Located(msgspec.Struct, frozen=True, kw_only=True):
    """Where a task is."""

    task_id: str
    state: TaskState
    path: str
    attempt: int = 0
    worker: str | None = None
    lane: str | None = None


@storage_faults("cannot look for a task")
def find(layout: Layout, task_id: str) -> Located | None:
    """Where the task is, or None. Costs one call per bucket that waits, and the listing of buckets for requeued work."""
    if ID_RE.match(task_id) is None:  # it would be part of a path, perhaps to another place
        return None
    return _find_once(layout, task_id) or _find_once(layout, task_id)


def _find_once(layout: Layout, task_id: str) -> Located | None:
    return (
        _find_ended(layout, task_id)
        or _find_pending(layout, task_id)
        or _find_blocked(layout, task_id)
        or next((located for located in _processing(layout) if located.task_id == task_id), None)
        or _find_ended(layout, task_id)
    )


def ended_in(layout: Layout, task_id: str) -> TaskState | None:
    """The terminal state of a task; None while it has not ended. One to three ``access`` calls."""
    place = first_file(layout.ended_files(task_id))
    return None if place is None else TERMINAL[place]


def find_ended(layout: Layout, task_id: str, state: TaskState) -> Located | None:
    """A task that has ended in this way."""
    path = layout.terminal(state, task_id)
    return Located(task_id=task_id, state=state, path=path) if is_file(path) else None


def _find_ended(layout: Layout, task_id: str) -> Located | None:
    state = ended_in(layout, task_id)
    return None if state is None else Located(task_id=task_id, state=state, path=layout.terminal(state, task_id))


def _find_pending(layout: Layout, task_id: str) -> Located | None:
    """In a bucket of fresh work no task has been tried, so its name is known; of the others each bucket is listed."""
    for lane in list_lanes(layout):
        buckets = sorted_buckets(layout.lane(lane))
        likely = {bucket[0]: bucket for bucket in buckets if bucket[2:] <= task_id}  # by priority, where fresh work went
        for bucket in (*likely.values(), *buckets):
            folder = f"{layout.lane(lane)}/{bucket}"
            path = f"{folder}/{task_file(task_id, 0)}"
            if is_file(path):
                return Located(task_id=task_id, state=TaskState.PENDING, path=path, lane=lane)
            if holds_requeued(bucket):
                for located in _listed(folder, TaskState.PENDING, lane=lane):
                    if located.task_id == task_id:
                        return located
    return None


def _find_blocked(layout: Layout, task_id: str) -> Located | None:
    """By trying names: there may be a hundred thousand, and to list them takes a hundred times as long."""
    paths = layout.blocked_files(task_id, _MOST_ATTEMPTS)
    attempt = first_file(paths)
    if attempt is None:
        return None
    return Located(task_id=task_id, state=TaskState.BLOCKED, path=paths[attempt], attempt=attempt)


def _listed(folder: str, state: TaskState, *, lane: str | None = None, worker: str | None = None) -> Iterator[Located]:
    """The tasks in one directory, by name."""
    for name in sorted(list_inside(folder)):
        parsed = parse_task_file(name)
        if parsed:
            yield Located(
                task_id=parsed.task_id,
                state=state,
                path=f"{folder}/{name}",
                attempt=parsed.attempt,
                lane=lane,
                worker=worker,
            )


@storage_faults("cannot read a task")
def read(layout: Layout, task_id: str) -> dict[str, Any]:
    """The whole document, with ``state`` (and ``worker``, ``attempt``) added. Raises ``UnknownTask``, ``TaskInvalid``."""
    for _ in range(10):  # it may move between the finding and the reading
        located = find(layout, task_id)
        if located is None:
            break
        try:
            document = codec.read_document(located.path)
        except FileNotFoundError:
            continue
        except ValueError as exc:
            raise TaskInvalid(f"{located.path}: {exc}") from exc
        document["state"] = str(located.state)
        if located.worker is not None:
            document["worker"] = located.worker
        if located.state not in TERMINAL:
            document["attempt"] = located.attempt
        return document
    raise UnknownTask(f"there is no task {task_id}", hint="`swarm queue list` shows the tasks")


def read_ended(layout: Layout, task_id: str) -> dict[str, Any] | None:
    """A finished document (``status`` always set, from the directory), or None."""
    if ID_RE.match(task_id) is None:
        return None
    for state in TERMINAL:
        try:
            document = codec.read_document(layout.terminal(state, task_id))
        except FileNotFoundError:
            continue
        document["status"] = str(state)
        return document
    return None


def read_result(layout: Layout, task_id: str) -> dict[str, Any] | None:
    """The same for who shows it to a person. Raises ``QueueError``: it is damaged."""
    try:
        return read_ended(layout, task_id)
    except ValueError as exc:
        raise QueueError(
            f"the record of task {task_id} is damaged: {exc}",
            hint="`swarm queue fsck` names it, `--repair` moves it to corrupt/; then submit the task again",
        ) from exc


def list_state(layout: Layout, state: TaskState) -> Iterator[Located]:
    """All tasks of one state, in queue order for pending, by shard and id for finished ones. Streams."""
    match state:
        case TaskState.PENDING:
            for lane in sorted(list_lanes(layout)):
                yield from list_lane(layout, lane)
        case TaskState.BLOCKED:
            yield from _listed(layout.blocked, state)
        case TaskState.PROCESSING:
            yield from _processing(layout)
        case TaskState.COMPLETED | TaskState.FAILED | TaskState.CANCELLED:
            yield from _terminal(layout, state)
        case TaskState.CORRUPT:
            for name in sorted(list_names(layout.corrupt)):
                if not name.endswith(REASON):
                    yield Located(task_id=name, state=state, path=f"{layout.corrupt}/{name}")


def list_lane(layout: Layout, lane: str) -> Iterator[Located]:
    """What waits in one lane, in queue order. Streams."""
    for bucket in sorted_buckets(layout.lane(lane)):
        yield from _listed(f"{layout.lane(lane)}/{bucket}", TaskState.PENDING, lane=lane)


def _processing(layout: Layout) -> Iterator[Located]:
    for worker in sorted(holders(layout)):
        yield from _listed(layout.held_by(worker), TaskState.PROCESSING, worker=worker)


def _terminal(layout: Layout, state: TaskState) -> Iterator[Located]:
    top = f"{layout.root}/{state}"
    for shard in sorted(filter(is_shard, list_names(top))):
        for name in sorted(list_inside(f"{top}/{shard}")):
            if name.endswith(".json") and ID_RE.fullmatch(name[:-5]):
                yield Located(task_id=name[:-5], state=state, path=f"{top}/{shard}/{name}")


def list_drop_ins(layout: Layout) -> tuple[DropIn, ...]:
    """What lies directly in ``pending/`` and is no lane, by name."""
    found = []
    for name in sorted(list_names(layout.pending)):
        path = f"{layout.pending}/{name}"
        status = status_of(path)
        if status is None:
            continue  # filed in the meantime
        if stat.S_ISDIR(status.st_mode) and parse_lane(name) is not None:
            continue
        if name.startswith("."):
            continue  # by convention still being written
        found.append(DropIn(file_name=name, quiet_s=quiet_s(status)))
    return tuple(found)


def quiet_s(status: os.stat_result) -> float:
    """Seconds since it was last written to, or came here: a copy may have brought a time of another clock along.

    One that lies ahead all the same was there before the clock was set back.
    """
    age_s = time.time() - min(status.st_mtime, status.st_ctime)
    return age_s if age_s >= 0 else PATIENCE_S


class Presence:
    """Whether a known task is still somewhere: looked up by name lists, not one search each."""

    def __init__(self, layout: Layout, known: Mapping[str, str]) -> None:
        """What is active is read when first asked for; with nothing ``known`` there is nothing to look for."""
        self._layout = layout
        self._known = known

    @cached_property
    def _active(self) -> frozenset[str]:
        if not self._known:
            return frozenset()
        states = (TaskState.PENDING, TaskState.BLOCKED, TaskState.PROCESSING)
        twice = (*states, *states)  # a task requeued between two listings is in neither: look twice
        return frozenset(located.task_id for state in twice for located in list_state(self._layout, state))

    def has(self, task_id: str) -> bool:
        """Whether the task was active at the first question, or has ended."""
        return task_id in self._active or ended_in(self._layout, task_id) is not None


log = logging.getLogger(__name__)
_REASON_BYTES = 64 << 10
_NAME_RE = re.compile(r"^(?P<id>[A-Za-z0-9][A-Za-z0-9_-]{0,63})(?:\.\d{1,6})?\.json(?:\.\d{1,4})?\Z")
"""A task's file, or a drop-in, under the name it was quarantined with."""


class QuarantinedFile(msgspec.Struct, frozen=True):
    """A task's file in ``corrupt/``."""

    name: str
    reason: str

    @property
    def words(self) -> str:
        """In words."""
        return f"is in corrupt/{self.name}{f': {self.reason}' if self.reason else ''}"


def find_quarantined(layout: Layout, task_id: str) -> QuarantinedFile | None:
    """The file of a task that was quarantined and is nowhere else; None for any other."""
    names = [name for name in list_names(layout.corrupt) if task_of(name) == task_id]
    if not names or find(layout, task_id) is not None:
        return None
    return read_quarantined(layout, max(names))


def read_quarantined(layout: Layout, name: str) -> QuarantinedFile:
    """What lies there and why; without its reason where that cannot be read."""
    try:
        reason = read_file(f"{layout.corrupt}/{name}{REASON}", _REASON_BYTES).decode(errors="replace").strip()
    except (FileNotFoundError, ValueError):
        reason = ""
    return QuarantinedFile(name, reason)


def task_of(name: str) -> str | None:
    """The task whose file this name in ``corrupt/`` was; None for what never was one's."""
    found = _NAME_RE.match(name)
    return found["id"] if found else None


class CorruptTasks:
    """Which tasks lie in ``corrupt/``, at the price of one ``stat`` while nothing is quarantined; for one thread."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._seen: DirStamp | None = None
        self._names: dict[str, str] = {}

    def fresh(self) -> frozenset[str]:
        """Look again; the ids that were not there at the last look."""
        now = stamp_of(self._layout.corrupt)
        if now is None or now.unchanged_since(self._seen):
            return frozenset()
        before = self._names
        self._names = {task_id: name for name in list_names(self._layout.corrupt) if (task_id := task_of(name)) is not None}
        self._seen = now
        return frozenset(self._names.keys() - before.keys())

    def found(self, task_id: str) -> QuarantinedFile | None:
        """Look again: what lies there of a task that is nowhere else."""
        self.fresh()
        name = self._names.get(task_id)
        return None if name is None else read_quarantined(self._layout, name)

    def holds(self, task_id: str) -> bool:
        """Whether that is all there is of this task: a second file of one that goes on says nothing about it."""
        return task_id in self._names and find(self._layout, task_id) is None
