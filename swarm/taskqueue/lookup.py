"""Looking into the queue: find one task, read it, list a state, count all. Reads only; nothing here needs a running swarm.

A look is not a snapshot: tasks move while directories are read. States are read in the direction tasks move, and what is not
found is looked for once more, so that a task on the move is still found.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any

import msgspec

from swarm.core.lanes import parse_lane
from swarm.core.task import TERMINAL, TaskState
from swarm.errors import TaskInvalid, UnknownTask
from swarm.taskqueue import codec
from swarm.taskqueue.buckets import list_names, sorted_buckets
from swarm.taskqueue.ids import time_of
from swarm.taskqueue.layout import Layout, parse_task_file, task_file
from swarm.taskqueue.storage import read_regular, storage_faults

_PROBED_ATTEMPTS = 8


class Located(msgspec.Struct, frozen=True, kw_only=True):
    """Where a task is."""

    task_id: str
    state: TaskState
    path: str
    attempt: int = 0
    worker: str | None = None
    lane: str | None = None


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """How many tasks are where. ``pending`` by lane, ``processing`` by worker; ``drop_ins`` wait to be checked."""

    pending: dict[str, int]
    blocked: int
    processing: dict[str, int]
    completed: int
    failed: int
    cancelled: int
    corrupt: int
    drop_ins: int
    oldest_pending_s: float | None
    """By the wall clock; None when nothing waits."""


@storage_faults("cannot look for a task")
def find(layout: Layout, task_id: str) -> Located | None:
    """Where the task is, or None. Costs a few calls per bucket, however full the buckets are."""
    return _find_once(layout, task_id) or _find_once(layout, task_id)


def _find_once(layout: Layout, task_id: str) -> Located | None:
    for state in TERMINAL:
        path = layout.terminal(state, task_id)
        if os.path.lexists(path):
            return Located(task_id=task_id, state=state, path=path)
    return _find_active(layout, task_id)


def _find_active(layout: Layout, task_id: str) -> Located | None:
    names = [(n, task_file(task_id, n)) for n in range(_PROBED_ATTEMPTS)]
    for lane in list_names(layout.pending):
        lane_path = layout.lane(lane)
        for bucket in sorted_buckets(lane_path):
            found = _probe(f"{lane_path}/{bucket}", names)
            if found:
                return Located(task_id=task_id, state=TaskState.PENDING, path=found[1], attempt=found[0], lane=lane)
    found = _probe(layout.blocked, names)
    if found:
        return Located(task_id=task_id, state=TaskState.BLOCKED, path=found[1], attempt=found[0])
    return _find_late(layout, task_id)


def _find_late(layout: Layout, task_id: str) -> Located | None:
    """Look through what is being processed, through finished documents again, and for tasks of very many attempts."""
    for located in _processing(layout):
        if located.task_id == task_id:
            return located
    for state in TERMINAL:
        path = layout.terminal(state, task_id)
        if os.path.lexists(path):
            return Located(task_id=task_id, state=state, path=path)
    return None


def _probe(folder: str, names: list[tuple[int, str]]) -> tuple[int, str] | None:
    for attempt, name in names:
        path = f"{folder}/{name}"
        if os.path.lexists(path):
            return attempt, path
    return None


@storage_faults("cannot read a task")
def read(layout: Layout, task_id: str) -> dict[str, Any]:
    """The whole document, with ``state`` (and ``worker``, ``attempt``) added. Raises ``UnknownTask``, ``TaskInvalid``."""
    for _ in range(10):  # it may move between the finding and the reading
        located = find(layout, task_id)
        if located is None:
            break
        try:
            document = codec.parse_document(read_regular(located.path, codec.MAX_FILE_BYTES))
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
    raise UnknownTask(f"there is no task {task_id}", hint="`swarm queue list` shows what there is")


def list_state(layout: Layout, state: TaskState) -> Iterator[Located]:
    """All tasks of one state, in queue order for pending, by shard and id for finished ones. Streams."""
    match state:
        case TaskState.PENDING:
            yield from _pending(layout)
        case TaskState.BLOCKED:
            for name in sorted(list_names(layout.blocked)):
                parsed = parse_task_file(name)
                if parsed:
                    yield Located(task_id=parsed[0], state=state, path=f"{layout.blocked}/{name}", attempt=parsed[1])
        case TaskState.PROCESSING:
            yield from _processing(layout)
        case TaskState.COMPLETED | TaskState.FAILED | TaskState.CANCELLED:
            yield from _terminal(layout, state)
        case TaskState.CORRUPT:
            for name in sorted(list_names(layout.corrupt)):
                if not name.endswith(".reason"):
                    yield Located(task_id=name, state=state, path=f"{layout.corrupt}/{name}")


def _pending(layout: Layout) -> Iterator[Located]:
    for lane in sorted(list_names(layout.pending)):
        lane_path = layout.lane(lane)
        for bucket in sorted_buckets(lane_path):
            for name in sorted(list_names(f"{lane_path}/{bucket}")):
                parsed = parse_task_file(name)
                if parsed:
                    path = f"{lane_path}/{bucket}/{name}"
                    yield Located(task_id=parsed[0], state=TaskState.PENDING, path=path, attempt=parsed[1], lane=lane)


def _processing(layout: Layout) -> Iterator[Located]:
    for worker in sorted(list_names(layout.processing)):
        folder = layout.held_by(worker)
        for name in sorted(list_names(folder)):
            parsed = parse_task_file(name)
            if parsed:
                yield Located(
                    task_id=parsed[0],
                    state=TaskState.PROCESSING,
                    path=f"{folder}/{name}",
                    attempt=parsed[1],
                    worker=worker,
                )


def _terminal(layout: Layout, state: TaskState) -> Iterator[Located]:
    top = f"{layout.root}/{state}"
    for shard in sorted(list_names(top)):
        for name in sorted(list_names(f"{top}/{shard}")):
            if name.endswith(".json"):
                yield Located(task_id=name[:-5], state=state, path=f"{top}/{shard}/{name}")


@storage_faults("cannot count the queue")
def counts(layout: Layout) -> Counts:
    """Count everything by listing directories; no file is opened."""
    pending: dict[str, int] = {}
    drop_ins = 0
    oldest: float | None = None
    for lane in list_names(layout.pending):
        if parse_lane(lane) is None:
            drop_ins += 1
            continue
        waiting, lane_oldest = count_lane(layout.lane(lane))
        if waiting:
            pending[lane] = waiting
            oldest = lane_oldest if oldest is None else min(oldest, lane_oldest or oldest)
    return Counts(
        pending=pending,
        blocked=_count_tasks(layout.blocked),
        processing={w: n for w in list_names(layout.processing) if (n := _count_tasks(layout.held_by(w)))},
        completed=_count_shards(f"{layout.root}/completed"),
        failed=_count_shards(f"{layout.root}/failed"),
        cancelled=_count_shards(f"{layout.root}/cancelled"),
        corrupt=sum(1 for n in list_names(layout.corrupt) if not n.endswith(".reason")),
        drop_ins=drop_ins,
        oldest_pending_s=None if oldest is None else max(0.0, time.time() - oldest),
    )


def count_lane(lane_path: str) -> tuple[int, float | None]:
    """Waiting tasks of a lane, and since when the oldest waits (seconds since the epoch)."""
    waiting = 0
    oldest: float | None = None
    for bucket in sorted_buckets(lane_path):
        names = task_names(f"{lane_path}/{bucket}")
        if names:
            waiting += len(names)
            since = oldest_of(f"{lane_path}/{bucket}", names)
            oldest = since if oldest is None else min(oldest, since)
    return waiting, oldest


def task_names(folder: str) -> list[str]:
    """Names of task files in a bucket, unsorted; what is foreign is left out."""
    return [n for n in list_names(folder) if n.endswith(".json") and n[0] != "."]


def oldest_of(folder: str, names: list[str]) -> float:
    """Since when the first of these waits: from its id, or from its file's time when the id was made elsewhere."""
    first = min(names)
    known = time_of(first.partition(".")[0])
    if known is not None:
        return known
    try:
        return os.stat(f"{folder}/{first}").st_mtime
    except FileNotFoundError:
        return time.time()


def _count_tasks(folder: str) -> int:
    return sum(1 for n in list_names(folder) if parse_task_file(n) is not None)


def _count_shards(top: str) -> int:
    return sum(len(list_names(f"{top}/{shard}")) for shard in list_names(top))
