"""Listings of tasks: of one state, filtered, a page at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any

import msgspec

from swarm.core.lanes import parse_lane
from swarm.core.task import TERMINAL, TaskState, canonical_model
from swarm.errors import InputError, QueueError, name_hint
from swarm.views.node_words import nodes_of_workers
from swarm.views.task_rows import TaskRow, task_row

if TYPE_CHECKING:
    from swarm.queue.file_queue import FileQueue
    from swarm.queue.lookup import Located


class TaskList(msgspec.Struct, frozen=True, kw_only=True):
    """A page of tasks, next in line first."""

    tasks: tuple[TaskRow, ...]
    more: bool
    """There are more of them than this."""


class TaskFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which tasks to list. Raises ``InputError`` for a lane that is none."""

    state: TaskState = TaskState.PENDING
    lane: str | None = None
    model: str | None = None
    batch: str | None = None

    def __post_init__(self) -> None:
        if self.lane is not None and parse_lane(self.lane) is None:
            raise InputError(f"{self.lane!r} is no lane", hint="lanes are cpu, script, llm@MODEL, resource@WORKER")


_MEANT = {"waiting": "pending", "queued": "pending", "running": "processing", "active": "processing", "done": "completed"}
"""What people call states, and tables call their numbers."""


def state_of(text: str) -> TaskState:
    """A state by its name. Raises ``InputError``."""
    try:
        return TaskState(text.lower())
    except ValueError:
        hint = name_hint(_MEANT.get(text.lower(), text.lower()), TaskState, "one of:")
        raise InputError(f"{text!r} is no state of a task", hint=hint) from None


def task_list(queue: FileQueue, wanted: TaskFilter, *, limit: int, offset: int = 0) -> TaskList:
    """Those at ``offset`` and after; tasks that move on between two calls move the pages. Raises ``QueueError``."""
    places = _places(queue, wanted)
    nodes = nodes_of_workers(queue.layout) if wanted.state is TaskState.PROCESSING else {}
    rows: Iterator[TaskRow]
    if wanted.model is None:
        rows = (_row(queue, located, nodes) for located in islice(places, offset, None))
    else:
        model = canonical_model(wanted.model)
        every = (_row(queue, located, nodes) for located in places)
        rows = islice((row for row in every if _is_for(row, model)), offset, None)
    found = tuple(islice(rows, limit + 1))
    return TaskList(tasks=found[:limit], more=len(found) > limit)


def _is_for(row: TaskRow, model: str) -> bool:
    return row.model is not None and canonical_model(row.model) == model


def _places(queue: FileQueue, wanted: TaskFilter) -> Iterator[Located]:
    every = queue.list(wanted.state) if wanted.batch is None else _of_batch(queue, wanted.batch, wanted.state)
    return (located for located in every if wanted.lane is None or located.lane == wanted.lane)


def _of_batch(queue: FileQueue, batch: str, state: TaskState) -> Iterator[Located]:
    """Ended ones in the order of the input, at one look each; the others in the order of the queue."""
    ids = queue.batches().task_ids(batch)
    if state in TERMINAL:
        return filter(None, (queue.find_ended(task_id, state) for task_id in ids))
    members = frozenset(ids)
    return (located for located in queue.list(state) if located.task_id in members)


def _row(queue: FileQueue, located: Located, nodes: Mapping[str, str]) -> TaskRow:
    reason = queue.why_corrupt(located.task_id) if located.state is TaskState.CORRUPT else ""
    return task_row(located, _document(queue, located), reason=reason, nodes=nodes)


def _document(queue: FileQueue, located: Located) -> Mapping[str, Any] | None:
    if located.state is TaskState.CORRUPT:
        return None
    try:
        return queue.read(located.task_id)
    except QueueError:
        return None  # it moved on or cannot be read; what its place says is shown
