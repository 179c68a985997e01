"""Removing finished documents: what may go, what something that waits still needs, and the purge people ask for."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Collection, Iterable

from swarm.core.task import TERMINAL, TaskState
from swarm.errors import InputError, TaskInvalid
from swarm.taskqueue import codec
from swarm.taskqueue.buckets import list_names
from swarm.taskqueue.layout import Layout
from swarm.taskqueue.sessions import read_turns
from swarm.taskqueue.shardpass import Removed, ShardPass
from swarm.taskqueue.storage import read_regular, storage_faults

_REASON = ".reason"


class Needed:
    """Which finished documents must stay: those that blocked tasks depend on, and the last one of each session.

    Without them the tasks that wait would wait for ever. Fits ``shardpass.Keep``.
    """

    def __init__(self, layout: Layout, dependencies: Collection[str]) -> None:
        self._layout = layout
        self._dependencies = dependencies
        self._turns = read_turns(layout)

    def __call__(self, task_id: str, path: str) -> bool:
        """Whether this document is needed. One that cannot be read is not."""
        if task_id in self._dependencies:
            return True
        if not self._turns:
            return False
        try:
            session = codec.parse(read_regular(path, codec.MAX_FILE_BYTES)).task.session
        except (FileNotFoundError, TaskInvalid, ValueError):
            return False
        return session is not None and self._turns.get(session) == task_id


def purge(layout: Layout, states: Iterable[TaskState], *, older_than_s: float, dry: bool) -> dict[TaskState, Removed]:
    """Remove what ended (or was set aside) longer ago by the wall clock; with ``dry`` only count. By state.

    Raises ``InputError`` for a state that is not terminal, ``StorageFault``.
    """
    asked = tuple(dict.fromkeys(states))
    for state in asked:
        if state not in (*TERMINAL, TaskState.CORRUPT):
            raise InputError(f"{state} tasks cannot be purged: they have not ended", hint="`swarm queue cancel` ends them")
    before_s = time.time() - older_than_s
    needed = Needed(layout, _dependencies(layout))
    found: dict[TaskState, Removed] = {}
    for state in asked:
        with storage_faults(f"cannot purge {state}"):
            if state is TaskState.CORRUPT:
                found[state] = _purge_corrupt(layout, before_s, dry=dry)
            else:
                found[state] = _purge_state(layout, state, before_s, needed, dry=dry)
    return found


def _purge_state(layout: Layout, state: TaskState, before_s: float, needed: Needed, *, dry: bool) -> Removed:
    removed = Removed()
    for shard in sorted(list_names(f"{layout.root}/{state}")):
        walk = ShardPass(layout, state, shard)
        while not walk.done:
            removed += walk.remove(10_000, before_s=before_s, keep=needed, dry=dry)
    return removed


def _purge_corrupt(layout: Layout, before_s: float, *, dry: bool) -> Removed:
    """By the time of the reason beside it: the file itself may have been old when it came."""
    removed = Removed()
    for name in list_names(layout.corrupt):
        path = f"{layout.corrupt}/{name}"
        if name.endswith(_REASON) or not os.path.lexists(path):
            continue
        try:
            since_s = os.lstat(path + _REASON).st_mtime
        except FileNotFoundError:
            since_s = os.lstat(path).st_ctime
        if since_s >= before_s:
            continue
        removed += Removed(1, os.lstat(path).st_size)
        if not dry:
            _delete(path)
            _delete(path + _REASON)
    return removed


def _delete(path: str) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
        return
    try:
        os.unlink(path)
    except FileNotFoundError:
        return


def _dependencies(layout: Layout) -> frozenset[str]:
    """Read from the blocked tasks themselves: who asks here has no index at hand."""
    wanted: set[str] = set()
    for name in list_names(layout.blocked):
        try:
            wanted.update(codec.parse(read_regular(f"{layout.blocked}/{name}", codec.MAX_FILE_BYTES)).task.depends_on)
        except (FileNotFoundError, TaskInvalid, ValueError):
            continue  # released meanwhile, or no task: the brain sets it aside, nothing is released by it
    return frozenset(wanted)
