"""Walks the state directories for ``fsck``: every place where a task may be, and whatever else lies there."""

from __future__ import annotations

import os
from collections.abc import Iterator

from swarm.core.lanes import parse_lane
from swarm.core.task import ID_RE, TERMINAL, TaskState
from swarm.taskqueue.buckets import list_names
from swarm.taskqueue.fsckrules import Finding, Placed, aside
from swarm.taskqueue.layout import Layout, bucket_priority, parse_task_file
from swarm.taskqueue.lifelock import is_held

RANK = {
    TaskState.COMPLETED: 0,
    TaskState.FAILED: 1,
    TaskState.CANCELLED: 2,
    TaskState.PROCESSING: 3,
    TaskState.BLOCKED: 4,
    TaskState.PENDING: 5,
}
"""Of a task in several states the first of these counts: what was recorded is never undone."""


def walk(layout: Layout) -> Iterator[Placed | Finding]:
    """All tasks by name, in the direction they move, and what is foreign. Temporary files (dotted names) are left out."""
    yield from _pending(layout)
    yield from _flat(TaskState.BLOCKED, layout.blocked)
    for worker in list_names(layout.processing):
        folder = layout.held_by(worker)
        if not os.path.isdir(folder):
            yield from _foreign(folder, "processing/ holds one directory per worker")
            continue
        yield from _flat(TaskState.PROCESSING, folder, home=worker, live=is_held(layout, worker))
    for state in TERMINAL:
        yield from _terminal(layout, state)


def _pending(layout: Layout) -> Iterator[Placed | Finding]:
    for lane in list_names(layout.pending):
        if parse_lane(lane) is None or not os.path.isdir(layout.lane(lane)):
            continue  # a drop-in: the brain's to judge
        for bucket in list_names(layout.lane(lane)):
            folder = f"{layout.lane(lane)}/{bucket}"
            if bucket_priority(bucket) is None or not os.path.isdir(folder):
                yield from _foreign(folder, "a lane holds buckets only")
            else:
                yield from _flat(TaskState.PENDING, folder, home=lane)


def _flat(state: TaskState, folder: str, *, home: str = "", live: bool = False) -> Iterator[Placed | Finding]:
    for name in list_names(folder):
        parsed = parse_task_file(name)
        if parsed is None:
            yield from _foreign(f"{folder}/{name}", f"a foreign name in {state}/, where files are <task id>.<attempts>.json")
        else:
            yield Placed(state, f"{folder}/{name}", parsed.task_id, home, live)


def _terminal(layout: Layout, state: TaskState) -> Iterator[Placed | Finding]:
    top = f"{layout.root}/{state}"
    for shard in list_names(top):
        if not os.path.isdir(f"{top}/{shard}"):
            yield from _foreign(f"{top}/{shard}", f"{state}/ holds shards only")
            continue
        for name in list_names(f"{top}/{shard}"):
            path = f"{top}/{shard}/{name}"
            if name.endswith(".json") and ID_RE.match(name[:-5]):
                yield Placed(state, path, name[:-5], shard)
            else:
                yield from _foreign(path, f"a foreign name in {state}/, where files are <task id>.json")


def _foreign(path: str, what: str) -> Iterator[Finding]:
    if not os.path.basename(path).startswith(".") and os.path.lexists(path):
        yield aside("foreign", path, what)
