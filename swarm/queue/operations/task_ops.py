"""Cancels and retries one task or many; many with one listing instead of a search each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain

from swarm.core.lanes import lane_of
from swarm.core.task import TERMINAL, TaskState, Trail, forgiven
from swarm.core.workflow.fan_out import child_ids
from swarm.errors import QueueError, StorageFault, UnknownTask
from swarm.filesystem.entries import is_file, list_inside
from swarm.queue import codec, lookup
from swarm.queue.batches.api_batches import ApiBatches
from swarm.queue.batches.batch_book import BatchBook
from swarm.queue.coordination import wake
from swarm.queue.layout import Layout, shard_of
from swarm.queue.lookup import Located, find_quarantined
from swarm.queue.operations.cancel import (
    CancelCounts,
    Canceller,
    cancel_marks,
    forget_cancel,
    is_child,
    list_children,
    mapped_task,
)
from swarm.queue.pending import BucketChooser
from swarm.queue.storage import Storage, storage_faults
from swarm.queue.stores.notifications import enqueue_for
from swarm.queue.submit.producer import waits
from swarm.queue.worker.transitions import rewrite_tail

_RETRIED = (TaskState.FAILED, TaskState.CANCELLED)


def cancel(layout: Layout, storage: Storage, task_id: str, reason: str) -> str:
    """Cancel a waiting task at once, or ask the worker of a running one to. Returns ``cancelled`` or ``asked``.

    A mapped task takes those of its children along that have not ended.
    Raises ``UnknownTask``, ``QueueError`` for a task that has ended.
    """
    canceller = Canceller(layout, storage)
    for _ in range(10):  # it may be claimed or requeued between the finding and the moving
        located = lookup.find(layout, task_id)
        if located is None:
            raise _unknown(layout, task_id)
        if located.state in TERMINAL:
            raise QueueError(f"task {task_id} is {located.state} already")
        if located.state is TaskState.PROCESSING:
            canceller.ask(task_id)
            now = lookup.find(layout, task_id)
            if now is not None and now.state in TERMINAL:
                forget_cancel(layout, task_id)  # else it would be meant for the next task of this id
                if now.state is TaskState.CANCELLED:
                    return "cancelled"  # its worker was quicker than this look
                raise QueueError(f"task {task_id} is {now.state} already")
            wake(layout)
            return "asked"
        task = mapped_task(located.path) if located.state is TaskState.BLOCKED else None
        if canceller.end(located, reason):
            if task is not None:
                canceller.end_children(task_id, task, reason)
                wake(layout)
            return "cancelled"
    raise QueueError(f"task {task_id} keeps changing its state", hint="try again")


def _unknown(layout: Layout, task_id: str) -> UnknownTask:
    aside = find_quarantined(layout, task_id)
    words = f"there is no task {task_id}" if aside is None else f"{task_id} is no valid task: it {aside.words}"
    return UnknownTask(words, hint="`swarm queue list` shows the tasks")


def retry(layout: Layout, storage: Storage, task_id: str) -> str:
    """Retry a failed or cancelled task: back into its lane. Its attempts stay on record, uncounted. Returns the lane.

    One that belongs to a session or depends on others waits in ``blocked`` for its turn, like a fresh one. With a mapped
    task go those of its children that failed or were cancelled; what the others have answered counts.
    Raises ``UnknownTask``, ``QueueError`` for a task that has not failed, ``LockHeld`` while its batch is being submitted,
    ``StorageFault``.
    """
    located = lookup.find(layout, task_id)
    if located is None:
        raise UnknownTask(f"there is no task {task_id}", hint="`swarm queue list --state failed` shows dead letters")
    if located.state not in _RETRIED:
        raise QueueError(f"task {task_id} is {located.state}; only failed and cancelled tasks can be retried")
    with storage_faults(f"task {task_id} could not be requeued"), _on_the_move(task_id):
        parts = codec.read(located.path)
        _check_needs(layout, parts)
        if parts.trail.children is not None:
            _retry_children(layout, storage, task_id)  # before it: one that is still failed would fail it again
        with BatchBook(layout, storage).retrying(parts.task.batch_id):
            lane = _put_back(layout, storage, located.path, parts)
    wake(layout)
    return lane


def _put_back(layout: Layout, storage: Storage, path: str, parts: codec.Parts) -> str:
    task_id, lane = parts.task.task_id, lane_of(parts.task)
    tail = codec.encode_trail(Trail(attempts=forgiven(parts.trail.attempts), children=parts.trail.children))
    rewrite_tail(storage, path, parts.body_size - 1, tail)
    forget_cancel(layout, task_id)
    enqueue_for(layout, storage, parts.task)  # its old end is off the record by now, so only the new one is notified
    if waits(parts.task):
        storage.move(path, layout.blocked_file(task_id, 0))
    else:
        chooser = BucketChooser(layout, storage)
        chooser.move_in(path, lane, chooser.at_end(lane, parts.task.priority), task_id, 0)
    return lane


def _check_needs(layout: Layout, parts: codec.Parts) -> None:
    """What it depends on, or the parts of a mapped task, may have ended before it did: for one purged since it would wait
    for ever.
    """
    children = -1 if parts.trail.children is None else parts.trail.children
    for wanted in parts.task.depends_on if children < 0 else child_ids(parts.task.task_id, children):
        if lookup.find(layout, wanted) is None and find_quarantined(layout, wanted) is None:
            raise QueueError(
                f"task {parts.task.task_id} waits for {wanted}, whose record was removed",
                hint="submit both again; `swarm queue purge` and brain.retention_days remove records",
            )


def _retry_children(layout: Layout, storage: Storage, map_id: str) -> None:
    for name in cancel_marks(layout):
        if name.rpartition("-")[0] == map_id:
            forget_cancel(layout, name)
    for state in _RETRIED:
        for located in list_children(layout, state, map_id):
            retry(layout, storage, located.task_id)


@contextmanager
def _on_the_move(task_id: str) -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, FileExistsError) as exc:
        hint = f"`swarm queue show {task_id}`"
        raise QueueError(f"task {task_id} has just been retried by another process", hint=hint) from exc


def cancel_tasks(layout: Layout, storage: Storage, task_ids: Iterable[str], reason: str) -> CancelCounts:
    """Cancel all of these that have not ended, and the children of those mapped over a list.

    Raises ``StorageFault``; repeating it goes on where it stopped.
    """
    ids = set(task_ids)

    def waiting() -> Iterable[Located]:
        return chain(lookup.list_state(layout, TaskState.PENDING), lookup.list_state(layout, TaskState.BLOCKED))

    canceller = Canceller(layout, storage)
    done = canceller.end_all(waiting, lambda located: located.task_id in ids or is_child(located, ids), reason)
    wake(layout)
    return done


def cancel_batch(layout: Layout, storage: Storage, batch_id: str, reason: str) -> CancelCounts:
    """Cancel what has not ended of a batch. One of a client of the HTTP server is cancelled for that client too.

    Raises ``QueueError`` for an unknown batch, ``StorageFault``; repeating it goes on where it stopped.
    """
    book = BatchBook(layout, storage)
    asked = ApiBatches(layout, storage).ask_cancel(batch_id)
    if asked is not None and not is_file(f"{layout.batches}/{batch_id}.json"):  # nothing of it is in the queue yet
        return CancelCounts(cancelled=0, asked=0)
    return cancel_tasks(layout, storage, book.task_ids(batch_id), reason)


def retry_tasks(layout: Layout, storage: Storage, task_ids: Iterable[str]) -> int:
    """Retry the failed and cancelled ones of these; how many. What moves meanwhile is passed over.

    Raises ``QueueError`` for the first that cannot be retried, once all others are; ``StorageFault``.
    """
    shards: dict[str, set[str]] = {}
    for task_id in task_ids:
        shards.setdefault(shard_of(task_id), set()).add(task_id)
    done, refused, left = 0, list[QueueError](), set[str]().union(*shards.values())
    for shard, ids in shards.items():
        names = chain.from_iterable(list_inside(f"{layout.root}/{state}/{shard}") for state in _RETRIED)
        for first in sorted(ids.intersection(name[:-5] for name in names)):
            for task_id in _behind_its_needs(layout, first, left):
                try:
                    done += _retried(layout, storage, task_id)
                except StorageFault:
                    raise
                except QueueError as problem:
                    refused.append(problem)
    if refused:
        raise refused[0]
    return done


def _behind_its_needs(layout: Layout, first: str, left: set[str]) -> Iterator[str]:
    """This task, if it is ``left``, behind those that are left of what it waits for; they are left no more.

    Before them the brain would see that they have failed, and fail it again or, if it is to run anyway, run it too soon.
    """
    path = [("", iter((first,)))]
    while path:
        task_id, needs = path[-1]
        need = next((one for one in needs if one in left), None)
        if need is not None:
            left.discard(need)
            path.append((need, iter(_needs(layout, need))))
        elif path.pop()[0]:
            yield task_id


@storage_faults("cannot read a task that is to be retried")
def _needs(layout: Layout, task_id: str) -> tuple[str, ...]:
    """What a failed or cancelled task depends on; nothing for any other."""
    found = (codec.read_if_task(layout.terminal(state, task_id)) for state in _RETRIED)
    return next((parts.task.depends_on for parts in found if parts is not None), ())


def _retried(layout: Layout, storage: Storage, task_id: str) -> bool:
    try:
        retry(layout, storage, task_id)
    except QueueError as problem:
        if lookup.find(layout, task_id) is not None:  # it cannot be retried: say so, do not pass it over
            state = lookup.read(layout, task_id)["state"]
            if state in _RETRIED:
                raise problem from None
        return False
    return True
