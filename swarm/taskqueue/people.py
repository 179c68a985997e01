"""What people ask of single tasks: cancel one, try a dead letter again."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from swarm.core.lanes import lane_of
from swarm.core.task import TERMINAL, TaskError, TaskState, Trail
from swarm.errors import QueueError, UnknownTask
from swarm.taskqueue import codec, lookup
from swarm.taskqueue.bell import ring
from swarm.taskqueue.buckets import BucketChooser
from swarm.taskqueue.ids import IdMaker
from swarm.taskqueue.layout import Layout
from swarm.taskqueue.notes import owe_for
from swarm.taskqueue.producer import waits
from swarm.taskqueue.settle import Settler
from swarm.taskqueue.storage import FILE_MODE, Storage, read_regular, storage_faults


def cancel(layout: Layout, storage: Storage, task_id: str, reason: str) -> str:
    """Cancel a waiting task at once, or ask the worker of a running one to. Returns ``cancelled`` or ``asked``.

    Raises ``UnknownTask``, ``QueueError`` for a task that has ended.
    """
    settler = Settler(layout, storage)
    error = TaskError(type="cancelled", message=reason)
    for _ in range(10):  # it may be claimed or given back between the finding and the moving
        located = lookup.find(layout, task_id)
        if located is None:
            raise UnknownTask(f"there is no task {task_id}", hint="`swarm queue list` shows what there is")
        if located.state in TERMINAL:
            raise QueueError(f"task {task_id} is {located.state} already")
        if located.state is TaskState.PROCESSING:
            with storage_faults(f"cannot ask for the cancelling of {task_id}"):
                os.close(os.open(layout.cancel_mark(task_id), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, FILE_MODE))
            ring(layout)
            return "asked"
        if settler.end_waiting(located.path, task_id, TaskState.CANCELLED, error):
            return "cancelled"
    raise QueueError(f"task {task_id} keeps moving", hint="try again")


def retry(layout: Layout, storage: Storage, task_id: str) -> str:
    """Put a failed or cancelled task back into its lane; its attempts stay on record but count no longer. Returns the lane.

    One that belongs to a session or depends on others waits in ``blocked`` for its turn, like a fresh one.
    Raises ``UnknownTask``, ``QueueError`` for a task that has not failed, ``StorageFault``.
    """
    located = lookup.find(layout, task_id)
    if located is None:
        raise UnknownTask(f"there is no task {task_id}", hint="`swarm queue list --state failed` shows dead letters")
    if located.state not in (TaskState.FAILED, TaskState.CANCELLED):
        raise QueueError(f"task {task_id} is {located.state}; only failed and cancelled tasks can be tried again")
    with storage_faults(f"task {task_id} could not be put back"), _on_the_move(task_id):
        parts = codec.parse(read_regular(located.path, codec.MAX_FILE_BYTES))
        forgiven = tuple(msgspec.structs.replace(a, outcome="forgiven", fault=None) for a in parts.trail.attempts)
        tail = codec.encode_trail(Trail(attempts=forgiven, children=parts.trail.children))
        storage.rewrite_tail(located.path, parts.body_size - 1, tail, shrink=True)
        forget_cancel(layout, task_id)
        owe_for(layout, storage, parts.task)  # its old end is off the record by now, so only the new one is told
        lane = lane_of(parts.task)
        if waits(parts.task):
            storage.move(located.path, layout.blocked_file(task_id, 0))
        else:
            chooser = BucketChooser(layout, storage, IdMaker())
            chooser.move_in(located.path, lane, chooser.at_end(lane, parts.task.priority), task_id, 0)
    ring(layout)
    return lane


@contextmanager
def _on_the_move(task_id: str) -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, FileExistsError) as exc:
        hint = f"`swarm queue show {task_id}`"
        raise QueueError(f"somebody else has just put task {task_id} back already", hint=hint) from exc


def forget_cancel(layout: Layout, task_id: str) -> None:
    """Take back the wish that a running task be cancelled; harmless when there is none."""
    try:
        os.unlink(layout.cancel_mark(task_id))
    except FileNotFoundError:
        return
