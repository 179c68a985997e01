"""Transitions of a claimed or waiting task: ended or requeued, by one rename of its file.

The rename is the commit, and names the exact file. An outcome is first written behind the body of its task; the file stays
open until that is durable.
"""

from __future__ import annotations

import errno
import os
import time
from typing import Literal, NamedTuple, Self

import msgspec

from swarm.clock import now_iso
from swarm.core.lanes import lane_of
from swarm.core.task import Task, TaskError, TaskState, Trail
from swarm.errors import OddEntry, TaskInvalid
from swarm.filesystem.entries import folder_status, open_file
from swarm.queue import codec
from swarm.queue.codec import encode_trail
from swarm.queue.layout import Layout
from swarm.queue.pending import BucketChooser, returned_bucket
from swarm.queue.storage import Storage, storage_faults, write_all


class OutcomeWriter:
    """Overwrites files from an offset on, and keeps them open until the end of the block. Never makes one.

    The bytes before the offset stay as they are, also in a torn write.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._open: list[int] = []

    def write(self, path: str, offset: int, data: bytes) -> bool:
        """Put ``data`` at the offset and end the file there; False: it is not there. Not durable yet. Raises ``OSError``."""
        try:
            fd = open_file(path, os.O_RDWR)
        except (FileNotFoundError, OddEntry):
            return False
        self._open.append(fd)
        write_all(fd, data, offset)
        end = offset + len(data)
        if os.lseek(fd, 0, os.SEEK_END) > end:
            os.ftruncate(fd, end)
        return True

    def flush(self) -> None:
        """Make them durable, together (full durability only). Raises ``OSError``."""
        self._storage.flush(*self._open)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_fault: object) -> None:
        for fd in self._open:
            os.close(fd)


def rewrite_tail(storage: Storage, path: str, offset: int, data: bytes) -> None:
    """Overwrite one file from an offset on, durably. Raises ``FileNotFoundError``, ``OSError``."""
    with OutcomeWriter(storage) as writer:
        if not writer.write(path, offset, data):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        writer.flush()


PROVEN_S = 1.0
_STATUS: dict[TaskState, Literal["completed", "failed", "cancelled"]] = {
    TaskState.COMPLETED: "completed",
    TaskState.FAILED: "failed",
    TaskState.CANCELLED: "cancelled",
}


class Ending(NamedTuple):
    """A task file whose task has ended, and how."""

    path: str
    task_id: str
    body_size: int
    state: TaskState
    trail: Trail


class Transitions:
    """Moves task files between states. Each move answers False when the file is missing: another moved it first."""

    def __init__(self, layout: Layout, storage: Storage) -> None:
        self._layout = layout
        self._storage = storage
        self._buckets = BucketChooser(layout, storage)
        self._proven, self._prove_again_s = "", 0.0

    def end(self, path: str, task: Task, body_size: int, state: TaskState, trail: Trail) -> bool:
        """Write the outcome behind the body and move the file to its terminal place, durably. Raises ``StorageFault``."""
        ending = Ending(path, task.task_id, body_size, state, self.dated(state, trail))
        with storage_faults(f"task {task.task_id} could not be recorded"):
            with OutcomeWriter(self._storage) as writer:
                written = self.write(writer, ending)
                writer.flush()
                folder = self.file(ending, written=written)
            if folder:
                self._storage.flush(folder)
        return bool(folder)

    def write(self, writer: OutcomeWriter, ending: Ending) -> bool:
        """The outcome behind the body, not durable yet; False: the file is not there. Raises ``OSError``."""
        return writer.write(ending.path, ending.body_size - 1, encode_trail(ending.trail))

    def file(self, ending: Ending, *, written: bool) -> str:
        """Move a file whose outcome is durable to its terminal place, never over a record.

        The folder whose names are still to be flushed before anybody may be told; empty where the ending is not on record.
        A record that exists already stays; the file goes to ``corrupt`` instead. Raises ``OSError``: then say it again,
        what was recorded is known again.
        """
        return self._file(ending) if written else self._recorded_before(ending)

    def _file(self, ending: Ending) -> str:
        folder, target = self._layout.terminal_place(ending.state, ending.task_id)
        try:
            self._prove(folder)
            try:
                self._storage.move(ending.path, target, flush=False)
            except FileNotFoundError:
                self._storage.make_dir(folder)
                self._storage.move(ending.path, target, flush=False)
        except FileNotFoundError:
            return self._recorded_before(ending)
        except FileExistsError:
            self._storage.quarantine(ending.path, f"task {ending.task_id} has a record already: {target}")
            return ""
        return folder

    def _prove(self, folder: str) -> None:
        """Have a directory there, and no link to one: nothing is filed behind it. Looked at once a second."""
        now_s = time.monotonic()
        if folder == self._proven and now_s < self._prove_again_s:
            return
        if folder_status(folder) is None:
            self._storage.make_dir(folder)
        self._proven, self._prove_again_s = folder, now_s + PROVEN_S

    def _recorded_before(self, ending: Ending) -> str:
        """The folder, if the record there is this very one, filed by an earlier try whose last flush failed."""
        folder, target = self._layout.terminal_place(ending.state, ending.task_id)
        there = codec.read_if_task(target)
        if there is None:
            return ""
        same = msgspec.structs.replace(there.trail, completed_at=ending.trail.completed_at) == ending.trail
        return folder if same else ""

    def requeue(self, path: str, task: Task, body_size: int, trail: Trail | None, *, attempt: int, delayed: bool) -> bool:
        """Move a file to the front of its lane (or to ``blocked``), its trail rewritten first unless None."""
        with storage_faults(f"task {task.task_id} could not be requeued"):
            try:
                if trail is not None:
                    rewrite_tail(self._storage, path, body_size - 1, encode_trail(trail))
                if delayed:
                    self._storage.move(path, self._layout.blocked_file(task.task_id, attempt))
                else:
                    lane = lane_of(task)
                    self._buckets.move_in(path, lane, returned_bucket(task.priority), task.task_id, attempt)
            except FileNotFoundError:
                return False
            except FileExistsError:
                self._storage.quarantine(path, f"task {task.task_id} is already waiting under this name")
                return False
        return True

    def dated(self, state: TaskState, trail: Trail) -> Trail:
        """The trail with its status, and the time of now where it has none."""
        if trail.status == _STATUS[state] and trail.completed_at is not None:
            return trail
        return msgspec.structs.replace(trail, status=_STATUS[state], completed_at=now_iso())

    def end_waiting(self, path: str, task_id: str, state: TaskState, error: TaskError) -> bool:
        """End a task that nobody holds: the rename commits, then the outcome is written where nobody else writes.

        False: it moved away meanwhile (claimed, most likely), or was no task and is set aside. Dying in between leaves a
        record without its reason, no more.
        """
        target = self._layout.terminal(state, task_id)
        with storage_faults(f"task {task_id} could not be ended"):
            try:
                self._storage.make_dir(os.path.dirname(target))
                self._storage.move(path, target)
            except (FileNotFoundError, FileExistsError):
                return False
            try:
                self._note_end(target, state, error)
            except FileNotFoundError:
                return True  # it had ended: put back by hand or purged since
            except (TaskInvalid, ValueError) as exc:
                self._storage.quarantine(target, str(exc))
                return False
        return True

    def _note_end(self, path: str, state: TaskState, error: TaskError) -> None:
        parts = codec.read(path)
        trail = Trail(
            status=_STATUS[state],
            completed_at=now_iso(),
            error=error,
            attempts=parts.trail.attempts,
            children=parts.trail.children,
        )
        rewrite_tail(self._storage, path, parts.body_size - 1, encode_trail(trail))
