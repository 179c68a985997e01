"""Walks the state directories for ``fsck``: all places of tasks, and whatever else is there."""

from __future__ import annotations

import os
from collections.abc import Iterator

from swarm.core.lanes import parse_lane
from swarm.core.task import ID_RE, TERMINAL, TaskState
from swarm.filesystem.entries import folder_status, is_file, is_text, list_inside, list_names
from swarm.queue.coordination import is_held
from swarm.queue.fsck.odd_entries import odd_kind
from swarm.queue.fsck.rules import FsckFinding, Placed, to_quarantine
from swarm.queue.layout import Layout, bucket_priority, is_shard, parse_task_file

RANK = {
    TaskState.COMPLETED: 0,
    TaskState.FAILED: 1,
    TaskState.CANCELLED: 2,
    TaskState.PROCESSING: 3,
    TaskState.BLOCKED: 4,
    TaskState.PENDING: 5,
}
"""Of a task in several states the first of these counts: what was recorded is never undone."""


def walk(layout: Layout) -> Iterator[Placed | FsckFinding]:
    """All tasks by name, in the direction they move, and what is foreign. Temporary files (dotted names) are left out."""
    yield from _pending(layout)
    yield from _flat(TaskState.BLOCKED, layout.blocked)
    for worker in list_names(layout.processing):
        folder = layout.held_by(worker)
        if folder_status(folder) is None or not ID_RE.fullmatch(worker):
            yield from _foreign(folder, "processing/ holds one directory per worker")
            continue
        yield from _flat(TaskState.PROCESSING, folder, home=worker, live=is_held(layout, worker))
    for state in TERMINAL:
        yield from _terminal(layout, state)


def _pending(layout: Layout) -> Iterator[Placed | FsckFinding]:
    for lane in list_names(layout.pending):
        if parse_lane(lane) is None or not is_text(lane) or folder_status(layout.lane(lane)) is None:
            continue  # a drop-in, or odd: see ``odd_entries``
        for bucket in list_inside(layout.lane(lane)):
            folder = f"{layout.lane(lane)}/{bucket}"
            if bucket_priority(bucket) is None or folder_status(folder) is None:
                yield from _foreign(folder, "a lane holds buckets only")
            else:
                yield from _flat(TaskState.PENDING, folder, home=lane)


def _flat(state: TaskState, folder: str, *, home: str = "", live: bool = False) -> Iterator[Placed | FsckFinding]:
    yield from _barred(folder)
    for name in list_inside(folder):
        parsed = parse_task_file(name)
        if parsed is None:
            yield from _foreign(f"{folder}/{name}", f"a foreign name in {state}/, where files are <task id>.<attempts>.json")
        else:
            yield Placed(state, f"{folder}/{name}", parsed.task_id, home, live)


def _terminal(layout: Layout, state: TaskState) -> Iterator[Placed | FsckFinding]:
    top = f"{layout.root}/{state}"
    for shard in list_names(top):
        names = list_inside(f"{top}/{shard}")
        if folder_status(f"{top}/{shard}") is None or not (is_shard(shard) or any(_is_document(n) for n in names)):
            yield from _foreign(f"{top}/{shard}", f"{state}/ holds shards only")
            continue
        yield from _barred(f"{top}/{shard}")
        for name in names:
            path = f"{top}/{shard}/{name}"
            if _is_document(name):
                yield Placed(state, path, name[:-5], shard)
            else:
                yield from _foreign(path, f"a foreign name in {state}/, where files are <task id>.json")


def _is_document(name: str) -> bool:
    return name.endswith(".json") and ID_RE.fullmatch(name[:-5]) is not None


def _foreign(path: str, what: str) -> Iterator[FsckFinding]:
    """Temporary files have dotted names; nothing else has."""
    if os.path.lexists(path) and not (os.path.basename(path).startswith(".") and is_file(path)):
        yield to_quarantine("foreign", path, what)


def _barred(folder: str) -> Iterator[FsckFinding]:
    status = folder_status(folder)
    if status is not None and (words := odd_kind(folder, status, folder=True)):
        yield FsckFinding("barred", folder, f"it {words}", f"none: `chown` or `chmod u+rwx {folder}`")
