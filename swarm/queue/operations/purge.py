"""Purges finished documents, except those that a waiting task still needs."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterable

import msgspec

from swarm.core.task import TERMINAL, TaskState
from swarm.errors import InputError, QueueError, StorageFault
from swarm.filesystem.entries import is_file, list_names, status_of
from swarm.queue import codec
from swarm.queue.batches.api_batches import ApiBatches
from swarm.queue.batches.batch_book import BatchBook
from swarm.queue.batches.purge_batches import EmptyBatches, being_submitted
from swarm.queue.brain.release_log import read_turns, still_needed
from swarm.queue.layout import Layout, is_shard
from swarm.queue.lookup import task_of
from swarm.queue.operations.cancel import cancel_marks
from swarm.queue.operations.retention import Removed, ShardPass
from swarm.queue.storage import REASON, Storage, storage_faults
from swarm.queue.stores.feeds import FeedBook

RENEW_S = 1.0
"""What is needed is looked at this often during a purge, and no more than a tenth of the time."""


class Needed:
    """Which finished documents must stay: what others still need, so that none waits for ever or fails for a purge.

    That is what blocked tasks depend on, the results that tasks in their lanes or at work ask for, the last task of each
    session, ended children of a mapped task that has not gathered them, tasks (and those of batches) of which somebody is
    still to be notified, all of a batch whose submission is under way or that is open to a client of the HTTP server, what
    a feeder made that died before it moved its cursor, and cancelled mapped tasks whose children the brain is yet to end.
    Fits ``retention.Keep``.
    """

    def __init__(self, layout: Layout, waiting: BlockedNeeds) -> None:
        """``waiting`` must have been looked at before: what is released meanwhile is on record by now."""
        self._ids = (
            waiting.ids | still_needed(layout) | being_submitted(layout) | _to_be_notified(layout) | _open_to_clients(layout)
        )
        self._ids |= frozenset(cancel_marks(layout))
        self._maps = waiting.maps
        self._cursors = _cursors(layout)
        self._turns = read_turns(layout)
        self._last = frozenset(self._turns.values())

    def __call__(self, task_id: str, path: str) -> bool:
        """Whether this document is needed. One that cannot be read is not."""
        head, _, number = task_id.rpartition("-")
        if task_id in self._ids or head in self._maps:
            return True
        if head in self._cursors and number.isdecimal() and int(number) > self._cursors[head]:
            return True
        if not self._turns:
            return False
        parts = codec.read_if_task(path)
        session = None if parts is None else parts.task.session
        return session is not None and self._turns.get(session) == task_id

    def keeps_corrupt(self, name: str) -> bool:
        """Whether a file in ``corrupt/`` is needed: by it those that wait for its task know that it will never end."""
        task_id = task_of(name)
        return task_id is not None and (task_id in self._ids or task_id in self._last)


class NeededNow:
    """The same for a purge that takes long: looked at anew each second, so that what is submitted meanwhile counts."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._renew_s = 0.0
        self._found = self._look()

    def __call__(self, task_id: str, path: str) -> bool:
        """Whether this document is needed. Raises ``StorageFault``."""
        return self._now()(task_id, path)

    def keeps_corrupt(self, name: str) -> bool:
        """Whether a file in ``corrupt/`` is needed. Raises ``StorageFault``."""
        return self._now().keeps_corrupt(name)

    def _now(self) -> Needed:
        if time.monotonic() > self._renew_s:
            self._found = self._look()
        return self._found

    def _look(self) -> Needed:
        began_s = time.monotonic()
        with storage_faults("cannot see what is still needed"):
            found = Needed(self._layout, waiting_for(self._layout))
        ended_s = time.monotonic()
        self._renew_s = ended_s + max(RENEW_S, 10 * (ended_s - began_s))
        return found


class BlockedNeeds(msgspec.Struct, frozen=True):
    """What blocked tasks need."""

    ids: frozenset[str]
    maps: frozenset[str] = frozenset()
    """Mapped tasks that have children and have not gathered their answers."""


def waiting_for(layout: Layout) -> BlockedNeeds:
    """What blocked tasks need, read from their files: for a caller without an index."""
    ids: set[str] = set()
    maps: set[str] = set()
    for name in list_names(layout.blocked):
        parts = codec.read_if_task(f"{layout.blocked}/{name}")
        if parts is None:
            continue  # released meanwhile, or no task: the brain quarantines it, nothing is released by it
        ids.update(parts.task.depends_on)
        if parts.trail.children is not None:
            maps.add(parts.task.task_id)
    return BlockedNeeds(frozenset(ids), frozenset(maps))


def _cursors(layout: Layout) -> dict[str, int]:
    """Lines behind each feed's cursor: what lies beyond is offered again, and must be found to be there."""
    book = FeedBook(layout, Storage("fast", layout.root))
    found = {}
    for feed_id in book.names():
        try:
            state = book.find(feed_id)
        except StorageFault:
            raise
        except QueueError:
            continue
        found[feed_id] = state.number if state is not None else 0
    return found


def _to_be_notified(layout: Layout) -> frozenset[str]:
    book = BatchBook(layout, Storage("fast", layout.root))
    found: set[str] = set()
    for name in list_names(layout.outbox):
        subject, _, rest = name.partition("-")
        if name.endswith(".json") and subject == "task":
            found.add(rest.removesuffix(".json"))
        elif name.endswith(".json") and subject == "batch":
            batch_id = rest.removesuffix(".json")
            found.update(book.known(batch_id).values(), book.order(batch_id))
    return frozenset(found)


def _open_to_clients(layout: Layout) -> frozenset[str]:
    storage = Storage("fast", layout.root)
    book = BatchBook(layout, storage)
    return frozenset(i for name in ApiBatches(layout, storage).open_names() for i in book.known(name).values())


def purge(layout: Layout, states: Iterable[TaskState], *, older_than_s: float, dry: bool) -> dict[TaskState, Removed]:
    """Remove what ended (or was quarantined) longer ago by the wall clock; with ``dry`` only count. By state.

    Raises ``InputError`` for a state that is not terminal, ``StorageFault``.
    """
    asked = tuple(dict.fromkeys(states))
    for state in asked:
        if state not in (*TERMINAL, TaskState.CORRUPT):
            raise InputError(f"{state} tasks cannot be purged: they have not ended", hint="`swarm queue cancel` ends them")
    before_s = time.time() - older_than_s
    needed = NeededNow(layout)
    found: dict[TaskState, Removed] = {}
    for state in asked:
        with storage_faults(f"cannot purge {state}"):
            if state is TaskState.CORRUPT:
                found[state] = _purge_corrupt(layout, before_s, needed, dry=dry)
            else:
                found[state] = _purge_state(layout, state, before_s, needed, dry=dry)
    return found


def _purge_state(layout: Layout, state: TaskState, before_s: float, needed: NeededNow, *, dry: bool) -> Removed:
    removed = Removed()
    for shard in sorted(filter(is_shard, list_names(f"{layout.root}/{state}"))):
        walk = ShardPass(layout, state, shard)
        while not walk.done:
            removed += walk.remove(10_000, before_s=before_s, keep=needed, dry=dry)
    return removed


def _purge_corrupt(layout: Layout, before_s: float, needed: NeededNow, *, dry: bool) -> Removed:
    """By the time of the reason beside it: the file itself may have been old when it came."""
    removed = Removed()
    for name in list_names(layout.corrupt):
        path = f"{layout.corrupt}/{name}"
        if name.endswith(REASON) or not os.path.lexists(path):
            continue
        try:
            since_s = os.lstat(path + REASON).st_mtime
        except FileNotFoundError:
            since_s = os.lstat(path).st_ctime
        if since_s >= before_s or needed.keeps_corrupt(name):
            continue
        removed += Removed(1, os.lstat(path).st_size)
        if not dry:
            _delete(path)
            _delete(path + REASON)
    return removed


def _delete(path: str) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
        return
    try:
        os.unlink(path)
    except FileNotFoundError:
        return


def purge_batches(
    layout: Layout, storage: Storage, *, older_than_s: float, purged: Iterable[TaskState] = (), dry: bool = False
) -> tuple[str, ...]:
    """Remove the files of batches of which nothing is left, if submitted longer ago; ids. Raises ``StorageFault``.

    With ``dry`` nothing is removed, and what a purge of the states ``purged`` would take counts as gone.
    """
    before_s = time.time() - older_than_s
    states = frozenset(purged)
    with storage_faults("cannot see what is still needed"):
        needed = Needed(layout, waiting_for(layout)) if dry else None

    def gone(state: TaskState, path: str) -> bool:
        if not is_file(path):
            return True
        status = status_of(path)
        if status is None:
            return True
        changed_s = status.st_mtime
        if needed is None or state not in states or changed_s >= before_s:
            return False
        return not needed(os.path.basename(path)[: -len(".json")], path)

    return EmptyBatches(layout, storage, before_s=before_s, gone=gone, dry=dry).step()
