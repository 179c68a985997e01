"""Cancels tasks, waiting or running, and the children of mapped tasks.

* A waiting task ends at once; a running one is stopped by its worker, at request.
* A mapped task may be cancelled while the brain makes its children. So a mark is written first, and stays: the brain, which
  alone makes children, ends what is left of them at its next tick and removes the mark. A crash in between leaves no child
  behind.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Container, Iterable, Iterator
from contextlib import suppress
from itertools import chain

import msgspec

from swarm.core.lanes import lane_of
from swarm.core.task import ID_RE, Task, TaskError, TaskState
from swarm.filesystem.entries import is_file, list_inside, list_names
from swarm.queue import codec, lookup
from swarm.queue.brain.completions import why_ended
from swarm.queue.layout import REQUEUE, Layout, is_shard, shard_time_of
from swarm.queue.lookup import Located
from swarm.queue.storage import Storage, storage_faults
from swarm.queue.worker.transitions import Transitions

_ROUNDS = 3
"""A task requeued between two listings is in neither: look again."""


class CancelCounts(msgspec.Struct, frozen=True, kw_only=True):
    """What a cancel request did."""

    cancelled: int
    """Waiting ones, ended at once."""
    asked: int
    """Running ones, whose workers were asked to stop them."""


class Canceller:
    """Ends tasks that have not ended. Every method may raise ``StorageFault``; repeating it goes on where it stopped."""

    def __init__(self, layout: Layout, storage: Storage) -> None:
        self._layout = layout
        self._storage = storage
        self._transitions = Transitions(layout, storage)

    def end(self, located: Located, reason: str) -> bool:
        """Cancel one that waits; of a mapped one the children are still to be ended. False: it has moved away."""
        mapped = located.state is TaskState.BLOCKED and mapped_task(located.path) is not None
        if mapped:
            self._mark(located.task_id)
        error = TaskError(type="cancelled", message=reason)
        ended = self._transitions.end_waiting(located.path, located.task_id, TaskState.CANCELLED, error)
        if ended and not mapped:  # of a worker that died: they would be meant for the next task of this id
            forget_cancel(self._layout, located.task_id)
            forget_requeue(self._layout, located.task_id)
        return ended

    def ask(self, task_id: str) -> None:
        """Ask the worker of a running task to stop it."""
        with storage_faults(f"cannot request to cancel {task_id}"):
            os.close(self._storage.open_own(self._layout.cancel_mark(task_id), os.O_WRONLY | os.O_CREAT))

    def end_all(
        self,
        waiting: Callable[[], Iterable[Located]],
        wanted: Callable[[Located], bool],
        reason: str,
        *,
        most: int | None = None,
    ) -> CancelCounts:
        """Of these that wait end all that are ``wanted`` (``most`` of them), and ask the workers of those that run."""
        cancelled, asked = 0, set[str]()
        for _ in range(_ROUNDS):
            before = cancelled, len(asked)
            for located in waiting():
                cancelled += wanted(located) and self.end(located, reason)
                if cancelled == most:
                    return CancelCounts(cancelled=cancelled, asked=len(asked))
            for located in lookup.list_state(self._layout, TaskState.PROCESSING):
                if located.task_id in asked or not wanted(located):
                    continue
                self.ask(located.task_id)
                if lookup.ended_in(self._layout, located.task_id) is None:
                    asked.add(located.task_id)
                else:
                    forget_cancel(self._layout, located.task_id)  # else it would be meant for the next task of this id
            if (cancelled, len(asked)) == before:
                break
        return CancelCounts(cancelled=cancelled, asked=len(asked))

    def end_children(self, map_id: str, task: Task, reason: str, *, most: int | None = None) -> CancelCounts:
        """End what has not ended of a mapped task's children."""

        def waiting() -> Iterable[Located]:
            lane = lookup.list_lane(self._layout, lane_of(task))
            return chain(lane, lookup.list_state(self._layout, TaskState.BLOCKED))

        why = f"its map task {map_id} was cancelled: {reason}"
        with storage_faults(f"cannot cancel the tasks of {map_id}"):
            return self.end_all(waiting, lambda located: is_child(located, {map_id}), why, most=most)

    def orphaned(self) -> tuple[str, ...]:
        """Mapped tasks that were cancelled and whose mark is still there."""
        return tuple(i for i in cancel_marks(self._layout) if mapped_task(self._cancelled(i)) is not None)

    def end_orphans(self, map_id: str, *, most: int) -> int:
        """``end_children`` of one of these; how many, with those asked. Once fewer than ``most`` are left its mark goes."""
        path, mark = self._cancelled(map_id), self._layout.cancel_mark(map_id)
        task = mapped_task(path)
        if task is None or not is_file(mark):
            return 0  # it was retried in this moment
        with storage_faults(f"cannot see why {map_id} was cancelled"):
            why = why_ended(path)
        done = self.end_children(map_id, task, why, most=most)
        if done.cancelled < most:
            with storage_faults(f"the mark of {map_id} could not be removed"), suppress(FileNotFoundError):
                os.unlink(mark)
        return done.cancelled + done.asked

    def _cancelled(self, task_id: str) -> str:
        return self._layout.terminal(TaskState.CANCELLED, task_id)

    def _mark(self, map_id: str) -> None:
        self.ask(map_id)
        with storage_faults(f"cannot cancel {map_id}"):
            self._storage.flush(self._layout.cancels)


def forget_cancel(layout: Layout, task_id: str) -> None:
    """Withdraw the request that a running task be cancelled; harmless when there is none."""
    with suppress(FileNotFoundError):
        if is_file(layout.cancel_mark(task_id)):
            os.unlink(layout.cancel_mark(task_id))


def ask_requeue(layout: Layout, storage: Storage, task_id: str) -> None:
    """Ask the worker of a running task to stop it and to requeue it. Raises ``StorageFault``."""
    with storage_faults(f"cannot request to requeue {task_id}"):
        os.close(storage.open_own(layout.requeue_mark(task_id), os.O_WRONLY | os.O_CREAT))


def forget_requeue(layout: Layout, task_id: str) -> bool:
    """Withdraw that request. False: there is none, or none any more."""
    if not is_file(layout.requeue_mark(task_id)):
        return False
    with suppress(FileNotFoundError):
        os.unlink(layout.requeue_mark(task_id))
        return True
    return False


def requeue_marks(layout: Layout) -> list[str]:
    """Ids of the tasks whose requeueing was asked for."""
    ids = [name.removesuffix(REQUEUE) for name in list_names(layout.cancels) if name.endswith(REQUEUE)]
    return [one for one in ids if ID_RE.fullmatch(one) and is_file(layout.requeue_mark(one))]


def cancel_marks(layout: Layout) -> list[str]:
    """Ids of the tasks whose cancelling was asked for."""
    return [name for name in list_names(layout.cancels) if ID_RE.fullmatch(name) and is_file(layout.cancel_mark(name))]


def mapped_task(path: str) -> Task | None:
    """The task at ``path`` if it is one mapped over a list."""
    task = _read(path)
    return None if task is None or task.map is None else task


def is_child(located: Located, parents: Container[str]) -> bool:
    """Whether it was made for an element of one of these; the id suggests it, the task itself says it."""
    parent, _, number = located.task_id.rpartition("-")
    if not number.isdecimal() or parent not in parents:
        return False
    task = _read(located.path)
    return task is not None and task.metadata.get("map_task") == parent


def list_children(layout: Layout, state: TaskState, map_id: str) -> Iterator[Located]:
    """The ended children of a mapped task in one terminal state, by listing the shards of ids that were not made here."""
    top = f"{layout.root}/{state}"
    for shard in sorted(filter(is_shard, list_names(top))):
        if shard_time_of(shard) is not None:
            continue  # of ids with a time in them: a child's has a dash
        for name in sorted(list_inside(f"{top}/{shard}")):
            if not name.startswith(f"{map_id}-") or not name.endswith(".json"):
                continue
            located = Located(task_id=name[:-5], state=state, path=f"{top}/{shard}/{name}")
            if is_child(located, {map_id}):
                yield located


@storage_faults("cannot read a task that is to be cancelled")
def _read(path: str) -> Task | None:
    """None: it has moved, or is no task."""
    parts = codec.read_if_task(path)
    return None if parts is None else parts.task
