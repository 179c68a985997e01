"""The ways a claimed or waiting task moves on: ended or given back. One commit each: a rename of the exact file."""

from __future__ import annotations

import os
from typing import Literal

import msgspec

from swarm.clock import SystemClock
from swarm.core.lanes import lane_of
from swarm.core.task import Task, TaskError, TaskState, Trail
from swarm.errors import TaskInvalid
from swarm.taskqueue.buckets import BucketChooser, returned_bucket
from swarm.taskqueue.codec import MAX_FILE_BYTES, encode_trail, parse
from swarm.taskqueue.corrupt import set_aside
from swarm.taskqueue.ids import IdMaker
from swarm.taskqueue.layout import Layout
from swarm.taskqueue.storage import Storage, read_regular, storage_faults

_STATUS: dict[TaskState, Literal["completed", "failed", "cancelled"]] = {
    TaskState.COMPLETED: "completed",
    TaskState.FAILED: "failed",
    TaskState.CANCELLED: "cancelled",
}


class Settler:
    """Moves task files on. Every method answers False when the file is gone: somebody else moved it first."""

    def __init__(self, layout: Layout, storage: Storage) -> None:
        self._layout = layout
        self._storage = storage
        self._clock = SystemClock()
        self._buckets = BucketChooser(layout, storage, IdMaker())

    def end(self, path: str, task: Task, body_size: int, state: TaskState, trail: Trail) -> bool:
        """Write the trail behind the body, flush, and move the file to its terminal place, never over another record.

        A record that exists already stays; the file goes to ``corrupt`` instead (False). Raises ``StorageFault``.
        """
        target = self._layout.terminal(state, task.task_id)
        with storage_faults(f"task {task.task_id} could not be recorded"):
            try:
                self._storage.rewrite_tail(path, body_size - 1, encode_trail(trail), shrink=True)
                try:
                    self._storage.move(path, target)
                except FileNotFoundError:
                    self._storage.make_dir(os.path.dirname(target))
                    self._storage.move(path, target)
            except FileNotFoundError:
                return self._recorded_before(target, trail)
            except FileExistsError:
                set_aside(self._layout, self._storage, path, f"task {task.task_id} has a record already: {target}")
                return False
        return True

    def _recorded_before(self, target: str, trail: Trail) -> bool:
        """Whether the record there is this very one, filed by an earlier try whose last flush failed; flushed again then."""
        try:
            there = parse(read_regular(target, MAX_FILE_BYTES)).trail
        except (FileNotFoundError, ValueError, TaskInvalid):
            return False
        same = msgspec.structs.replace(there, completed_at=trail.completed_at) == trail
        if same:
            self._storage.flush_dir(os.path.dirname(target))
        return same

    def give_back(self, path: str, task: Task, body_size: int, trail: Trail | None, *, attempt: int, delayed: bool) -> bool:
        """Move a file to the front of its lane (or to ``blocked``), its trail rewritten first unless None."""
        with storage_faults(f"task {task.task_id} could not be given back"):
            try:
                if trail is not None:
                    self._storage.rewrite_tail(path, body_size - 1, encode_trail(trail), shrink=True)
                if delayed:
                    self._storage.move(path, self._layout.blocked_file(task.task_id, attempt))
                else:
                    lane = lane_of(task)
                    self._buckets.move_in(path, lane, returned_bucket(task.priority), task.task_id, attempt)
            except FileNotFoundError:
                return False
            except FileExistsError:
                set_aside(self._layout, self._storage, path, f"task {task.task_id} waits already under this name")
                return False
        return True

    def end_dated(self, path: str, task: Task, body_size: int, state: TaskState, trail: Trail) -> bool:
        """``end`` with the status and the time of now filled in."""
        if trail.status != _STATUS[state] or trail.completed_at is None:
            trail = msgspec.structs.replace(trail, status=_STATUS[state], completed_at=self._clock.iso())
        return self.end(path, task, body_size, state, trail)

    def end_waiting(self, path: str, task_id: str, state: TaskState, error: TaskError) -> bool:
        """End a task that nobody holds: the rename commits, then the outcome is written where nobody else writes.

        False: it moved away meanwhile (claimed, most likely). Dying in between leaves a record without its reason, no more.
        """
        target = self._layout.terminal(state, task_id)
        with storage_faults(f"task {task_id} could not be ended"):
            try:
                self._storage.make_dir(os.path.dirname(target))
                self._storage.move(path, target)
            except (FileNotFoundError, FileExistsError):
                return False
            parts = parse(read_regular(target, MAX_FILE_BYTES))
            trail = Trail(
                status=_STATUS[state],
                completed_at=self._clock.iso(),
                error=error,
                attempts=parts.trail.attempts,
                children=parts.trail.children,
            )
            self._storage.rewrite_tail(target, parts.body_size - 1, encode_trail(trail), shrink=True)
        return True
