"""What people do to a whole batch: cancel what has not ended, try again what failed. One listing, not one search each."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from swarm.core.task import TaskState
from swarm.errors import QueueError, StorageFault
from swarm.filesystem.entries import list_inside
from swarm.queue import lookup
from swarm.queue.layout import Layout, shard_of
from swarm.queue.operations import task_ops as people
from swarm.queue.operations.cancel import Canceller, is_child
from swarm.queue.storage.files import Storage
from swarm.queue.storage.wakeup import ring

_WAITING = (TaskState.PENDING, TaskState.BLOCKED)
_ROUNDS = 3
"""A task given back between two listings is in neither: look again."""


class Cancelled(msgspec.Struct, frozen=True, kw_only=True):
    """What a cancelling did."""

    cancelled: int
    """Waiting ones, ended at once."""
    asked: int
    """Running ones, whose workers were asked to stop them."""


def cancel_tasks(layout: Layout, storage: Storage, task_ids: Iterable[str], reason: str) -> Cancelled:
    """Cancel all of these that have not ended, and the children of those mapped over a list.

    Raises ``StorageFault``; repeating it goes on where it stopped.
    """
    wanted = set(task_ids)
    canceller = Canceller(layout, storage)
    cancelled, asked = 0, set[str]()
    for _ in range(_ROUNDS):
        before = cancelled, len(asked)
        for state in _WAITING:
            for located in lookup.list_state(layout, state):
                if located.task_id in wanted or is_child(located, wanted):
                    cancelled += canceller.end(located, reason)
        for located in lookup.list_state(layout, TaskState.PROCESSING):
            if located.task_id not in asked and (located.task_id in wanted or is_child(located, wanted)):
                canceller.ask(located.task_id)
                asked.add(located.task_id)
        if (cancelled, len(asked)) == before:
            break
    ring(layout)
    return Cancelled(cancelled=cancelled, asked=len(asked))


def retry_tasks(layout: Layout, storage: Storage, task_ids: Iterable[str]) -> int:
    """Put the failed and cancelled ones of these back into the queue; how many. What moves meanwhile is passed over.

    Raises ``QueueError`` for the first that cannot be put back, once all others are; ``StorageFault``.
    """
    shards: dict[str, set[str]] = {}
    for task_id in task_ids:
        shards.setdefault(shard_of(task_id), set()).add(task_id)
    done, refused = 0, list[QueueError]()
    for shard, ids in shards.items():
        for state in (TaskState.FAILED, TaskState.CANCELLED):
            for name in sorted(list_inside(f"{layout.root}/{state}/{shard}")):
                if name[:-5] not in ids:
                    continue
                try:
                    done += _retried(layout, storage, name[:-5])
                except StorageFault:
                    raise
                except QueueError as problem:
                    refused.append(problem)
    if refused:
        raise refused[0]
    return done


def _retried(layout: Layout, storage: Storage, task_id: str) -> bool:
    try:
        people.retry(layout, storage, task_id)
    except QueueError as problem:
        if lookup.find(layout, task_id) is not None:  # it cannot be put back: say so, do not pass it over
            state = lookup.read(layout, task_id)["state"]
            if state in (TaskState.FAILED, TaskState.CANCELLED):
                raise problem from None
        return False
    return True
