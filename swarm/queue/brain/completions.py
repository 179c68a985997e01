"""Which of the awaited tasks have ended, at a bounded cost per look however many are awaited.

A task ends by moving to a terminal directory: out of ``processing``, which the kernel tells; out of ``blocked``, which is
told through ``suspect``; out of ``pending`` by being cancelled, which directory times show. So a look costs what changed.
Where something may have been missed, and without inotify, those that were running at the last look are looked up at once,
and of the others a bounded number in turn. One whose file was set aside as corrupt has ended too, and has not completed.

Which tasks may have ended since the last look, at the cost of what happened: told by the kernel or directory times.
"""

from __future__ import annotations

import logging
import os
import time
import weakref
from collections.abc import Iterable, Iterator
from itertools import islice

from swarm.core.task import TERMINAL, TaskState
from swarm.errors import TaskInvalid
from swarm.filesystem.entries import folder_status, is_file, list_inside
from swarm.queue import codec
from swarm.queue.corrupt import CorruptTasks, find_set_aside
from swarm.queue.layout import GRAIN_NS, Layout, parse_task_file, shard_of
from swarm.queue.storage import inotify
from swarm.queue.storage.files import read_regular
from swarm.queue.stores.registry import holders

SHARDS_A_LOOK = 200
"""Shards whose directory times are read in one look; the others are next."""


class Departures:
    """What left ``processing``; for one thread."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._fd = inotify.opened()
        self._workers: dict[str, int] = {}
        if self._fd is not None:
            weakref.finalize(self, os.close, self._fd)

    def told(self, workers: Iterable[str]) -> tuple[set[str], bool]:
        """Ids that left the directories of these workers since the last call, and whether that is all that did.

        Not all: at the first call, of a worker seen for the first time, after lost events, and always without inotify.
        """
        if self._fd is None:
            return set(), False
        left: set[str] = set()
        whole = True
        for event in inotify.told(self._fd):
            if event.name is None:
                whole = False
                self._forget(event.watch)
            elif (parsed := parse_task_file(event.name)) is not None:
                left.add(parsed.task_id)
        for worker in workers:
            if worker not in self._workers:
                whole = False
                watch = inotify.add(self._fd, self._layout.held_by(worker), inotify.GONE)
                if watch is not None:
                    self._workers[worker] = watch
        return left, whole

    def _forget(self, watch: int) -> None:
        """Its directory has gone (or, with -1, events were lost)."""
        self._workers = {worker: known for worker, known in self._workers.items() if known != watch}


class Cancelled:
    """Which of some tasks lie in ``cancelled``, noticed by the times of its shards; for one thread."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._awaited: dict[str, set[str]] = {}
        self._seen: dict[str, int] = {}

    def watch(self, task_id: str) -> None:
        """One more to look out for."""
        shard = shard_of(task_id)
        self._awaited.setdefault(shard, set()).add(task_id)
        self._seen.pop(shard, None)

    def forget(self, task_id: str) -> None:
        """One less."""
        shard = shard_of(task_id)
        ids = self._awaited.get(shard, set())
        ids.discard(task_id)
        if not ids:
            self._awaited.pop(shard, None)
            self._seen.pop(shard, None)

    def there(self) -> set[str]:
        """Those found there now. Costs a ``stat`` per shard, and a listing of each that changed."""
        found: set[str] = set()
        for shard in list(islice(self._awaited, SHARDS_A_LOOK)):
            ids = self._awaited.pop(shard)
            self._awaited[shard] = ids  # at the end: next time it is others' turn
            found |= self._look(shard, ids)
        return found

    def _look(self, shard: str, ids: set[str]) -> set[str]:
        folder = f"{self._layout.root}/{TaskState.CANCELLED}/{shard}"
        status = folder_status(folder)
        if status is None:
            return set()
        changed_ns = status.st_mtime_ns
        if self._seen.get(shard) == changed_ns:
            return set()
        # Directory times move in steps: a change may hide behind one of the same step, so a fresh listing is not trusted.
        self._seen[shard] = changed_ns if time.time_ns() - changed_ns > GRAIN_NS else -1
        return ids.intersection(name[:-5] for name in list_inside(folder))


log = logging.getLogger(__name__)
WHY_CHARS = 300
"""Of a reason that is told on: chains of tasks must not make it grow without end."""
WHY_LOOKS = 10
WHY_PAUSE_S = 0.005
LOOKED_UP = 500
"""Awaited tasks looked up per look where ends may have been missed: a few milliseconds; four times as many while nothing
runs."""
SURE = 20
"""The same where none was: nobody tells of what another host does."""


def why_ended(path: str) -> str:
    """The reason in a record. Of a task that waited it is written right after the move, so it is waited for a moment."""
    for _ in range(WHY_LOOKS):
        try:
            trail = codec.parse(read_regular(path, codec.MAX_FILE_BYTES)).trail
        except (FileNotFoundError, TaskInvalid, ValueError):
            break
        if trail.status is not None:
            return trail.error.message if trail.error is not None else "no reason was recorded"
        time.sleep(WHY_PAUSE_S)
    return "no reason was recorded"


def how_ended(layout: Layout, task_id: str) -> str:
    """In what way a task did not complete, and why, to follow its id: ``failed: no such model``."""
    words = {TaskState.FAILED: "failed", TaskState.CANCELLED: "was cancelled"}
    for state, said in words.items():
        path = layout.terminal(state, task_id)
        if is_file(path):
            why = why_ended(path)
            return f"{said}: {why if len(why) <= WHY_CHARS else why[:WHY_CHARS] + '…'}"
    aside = find_set_aside(layout, task_id)
    return "failed" if aside is None else f"will never end, it {aside.words}"


class HowEnded:
    """The same, read once for all that wait for one task; for one thread."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._known: dict[str, str] = {}

    def of(self, task_id: str | None) -> str:
        """See ``how_ended``."""
        if task_id is None:
            return "failed"
        if task_id not in self._known:
            if len(self._known) >= LOOKED_UP:
                self._known.clear()
            self._known[task_id] = how_ended(self._layout, task_id)
        return self._known[task_id]

    def forget(self, task_id: str) -> None:
        """It has ended again."""
        self._known.pop(task_id, None)


class Endings:
    """For one thread."""

    def __init__(self, layout: Layout, *, budget: bool) -> None:
        """Without ``budget`` every look is a whole one."""
        self._layout = layout
        self._budget = budget
        self._awaited: dict[str, None] = {}
        self._ran: set[str] = set()
        self._suspects: set[str] = set()
        self._unsure = 0
        self._departures = Departures(layout) if budget else None
        self._cancelled = Cancelled(layout)
        self._corrupt = CorruptTasks(layout)

    def watch(self, task_id: str) -> None:
        """Its end is to be told."""
        self._awaited.setdefault(task_id)
        self._cancelled.watch(task_id)

    def forget(self, task_id: str) -> None:
        """Nobody waits for it any more."""
        self._awaited.pop(task_id, None)
        self._cancelled.forget(task_id)

    def suspect(self, names: Iterable[str]) -> None:
        """These files have left a place where they waited: their tasks may have ended."""
        ids = (parsed.task_id for name in names if (parsed := parse_task_file(name)) is not None)
        self._suspects.update(task_id for task_id in ids if task_id in self._awaited)

    def ended(self, task_id: str) -> bool | None:
        """Whether it completed; None while it has not ended. One to three ``access`` calls."""
        for state in TERMINAL:
            if is_file(self._layout.terminal(state, task_id)):
                return state is TaskState.COMPLETED
        return False if self._corrupt.holds(task_id) else None

    def news(self) -> Iterator[tuple[str, bool]]:
        """Awaited tasks that have ended, each told once."""
        told = []
        for task_id in self._asked():
            del self._awaited[task_id]
            completed = self.ended(task_id)
            if completed is None:
                self._awaited[task_id] = None  # at the end: next time it is others' turn
            else:
                self._cancelled.forget(task_id)
                told.append((task_id, completed))
                if not completed and self._corrupt.holds(task_id):
                    self._tell(task_id)
        return iter(told)

    def _asked(self) -> dict[str, None]:
        """Whom to look up now, each once."""
        workers = holders(self._layout) if self._awaited or self._departures else []
        running = self._running(workers) if self._awaited else set()
        left, whole = self._departures.told(workers) if self._departures else (set[str](), False)
        self._unsure = max(0, self._unsure) if whole else len(self._awaited)
        likely = (self._ran - running) | left | self._suspects | self._cancelled.there() | self._corrupt.fresh()
        limit = min(max(self._unsure, SURE), LOOKED_UP if running else 4 * LOOKED_UP) if self._budget else None
        in_turn = dict.fromkeys(islice(self._awaited, limit))
        self._unsure -= len(in_turn)
        self._suspects.clear()
        self._ran = running
        return in_turn | dict.fromkeys(task_id for task_id in likely if task_id in self._awaited)

    def _tell(self, task_id: str) -> None:
        aside = find_set_aside(self._layout, task_id)
        if aside is not None:
            log.warning("Task %s will never end, it %s; what waited for it goes on, or fails", task_id, aside.words)

    def _running(self, workers: list[str]) -> set[str]:
        found = set()
        for worker in workers:
            for name in list_inside(self._layout.held_by(worker)):
                parsed = parse_task_file(name)
                if parsed is not None:
                    found.add(parsed.task_id)
        return found
