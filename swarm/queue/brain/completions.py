"""Finds which of the awaited tasks have ended, at a bounded cost per look.

A task ends by moving to a terminal directory, or to ``corrupt/`` (it has not completed then). Each way leaves a sign:

| from              | sign                                                                                   |
|-------------------|----------------------------------------------------------------------------------------|
| ``processing``    | the kernel tells of each file that leaves; without inotify two listings are compared    |
| ``blocked``       | ``suspect``, by who follows the names in there                                          |
| ``pending``       | being cancelled: the time of change of its shard of ``cancelled``                       |
| anywhere          | being quarantined: the time of change of ``corrupt``                                    |

Who shows a sign is looked up at once. Where signs may have been missed (at the first look, when events were lost, without
inotify) all others are looked up as well, a bounded number each look.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from itertools import islice

from swarm.core.task import TaskState
from swarm.filesystem.entries import DirStamp, is_file, list_inside, stamp_of
from swarm.queue import codec
from swarm.queue.coordination import GONE, Inotify
from swarm.queue.layout import Layout, parse_task_file, shard_of
from swarm.queue.lookup import CorruptTasks, ended_in, find_quarantined
from swarm.queue.stores.registry import holders

log = logging.getLogger(__name__)
SHARDS_A_LOOK = 200
"""Shards whose times of change are read in one look; the others are next."""
LOOKED_UP = 1000
"""Awaited tasks looked up per look where signs may have been missed: a few milliseconds."""
SURE = 20
"""The same where none was: nobody tells of what another host does."""
WHY_CHARS = 300
"""Of a reason that is passed on: chains of tasks must not make it grow without end."""
WHY_LOOKS = 10
WHY_PAUSE_S = 0.005


def why_ended(path: str) -> str:
    """The reason in a record. Of a task that waited it is written right after the move, so it is waited for a moment."""
    for _ in range(WHY_LOOKS):
        parts = codec.read_if_task(path)
        if parts is None:
            break
        if parts.trail.status is not None:
            return parts.trail.error.message if parts.trail.error is not None else "no reason was recorded"
        time.sleep(WHY_PAUSE_S)
    return "no reason was recorded"


def how_ended(layout: Layout, task_id: str) -> str:
    """In what way a task did not complete, and why, to follow its id: ``failed: no such model``."""
    for state, words in ((TaskState.FAILED, "failed"), (TaskState.CANCELLED, "was cancelled")):
        path = layout.terminal(state, task_id)
        if is_file(path):
            why = why_ended(path)
            return f"{words}: {why if len(why) <= WHY_CHARS else why[:WHY_CHARS] + '…'}"
    aside = find_quarantined(layout, task_id)
    return "failed" if aside is None else f"will never end, it {aside.words}"


class _Departures:
    """What left ``processing``."""

    def __init__(self, layout: Layout, *, told: bool) -> None:
        self._layout = layout
        self._events = Inotify.opened({}) if told else None
        self._watches: dict[str, int] = {}
        self._ran: set[str] = set()

    def left(self) -> tuple[set[str], bool]:
        """Ids that left since the last call, and whether that is all that did.

        Not all: at the first call, of a worker seen for the first time, after lost events, and always without inotify.
        """
        workers = holders(self._layout)
        if self._events is None:
            before, self._ran = self._ran, self._running(workers)
            return before - self._ran, False
        left: set[str] = set()
        whole = True
        for event in self._events.events():
            if event.name is None:  # events were lost, or a directory is missing now
                whole = False
                self._watches = {worker: watch for worker, watch in self._watches.items() if watch != event.watch}
            elif (parsed := parse_task_file(event.name)) is not None:
                left.add(parsed.task_id)
        for worker in workers:
            if worker not in self._watches:
                whole = False
                with suppress(OSError):
                    self._watches[worker] = self._events.watch(self._layout.held_by(worker), GONE)
        return left, whole

    def _running(self, workers: Sequence[str]) -> set[str]:
        names = (name for worker in workers for name in list_inside(self._layout.held_by(worker)))
        return {parsed.task_id for name in names if (parsed := parse_task_file(name)) is not None}


class _Cancellations:
    """Which of the awaited tasks lie in ``cancelled``: a ``stat`` per shard, and a listing of each that changed."""

    def __init__(self, layout: Layout) -> None:
        self._top = f"{layout.root}/{TaskState.CANCELLED}"
        self._awaited: dict[str, set[str]] = {}
        self._seen: dict[str, DirStamp] = {}

    def watch(self, task_id: str) -> None:
        shard = shard_of(task_id)
        self._awaited.setdefault(shard, set()).add(task_id)
        self._seen.pop(shard, None)

    def forget(self, task_id: str) -> None:
        shard = shard_of(task_id)
        ids = self._awaited.get(shard, set())
        ids.discard(task_id)
        if not ids:
            self._awaited.pop(shard, None)
            self._seen.pop(shard, None)

    def there(self) -> set[str]:
        found: set[str] = set()
        for shard in list(islice(self._awaited, SHARDS_A_LOOK)):
            self._awaited[shard] = ids = self._awaited.pop(shard)  # at the end: next time it is others' turn
            now = stamp_of(f"{self._top}/{shard}")
            if now is not None and not now.unchanged_since(self._seen.get(shard)):
                self._seen[shard] = now
                found |= ids.intersection(name[:-5] for name in list_inside(f"{self._top}/{shard}"))
        return found


class Completions:
    """For one thread. While nothing is awaited nobody need ask for news; signs that come meanwhile count as missed."""

    def __init__(self, layout: Layout, *, budget: bool) -> None:
        """Without ``budget`` every look is a whole one."""
        self._layout = layout
        self._budget = budget
        self.awaited: dict[str, None] = {}
        """In the order in which they are looked up."""
        self._suspects: set[str] = set()
        self._unsure = 0
        """Of the awaited, those still to be looked up since a sign may have been missed."""
        self._missed = True
        self._departures = _Departures(layout, told=budget)
        self._cancelled = _Cancellations(layout)
        self._corrupt = CorruptTasks(layout)

    def watch(self, task_id: str) -> None:
        """Await this task: ``news`` reports its end."""
        self._missed = self._missed or not self.awaited  # while nothing was awaited nobody looked for signs
        self.awaited.setdefault(task_id)
        self._cancelled.watch(task_id)

    def forget(self, task_id: str) -> None:
        """Await this task no more."""
        self.awaited.pop(task_id, None)
        self._cancelled.forget(task_id)

    def suspect(self, names: Iterable[str]) -> None:
        """These files have left a place where they waited: their tasks may have ended."""
        ids = (parsed.task_id for name in names if (parsed := parse_task_file(name)) is not None)
        self._suspects.update(task_id for task_id in ids if task_id in self.awaited)

    def ended(self, task_id: str) -> bool | None:
        """Whether it completed; None while it has not ended. One to three ``access`` calls."""
        state = ended_in(self._layout, task_id)
        if state is not None:
            return state is TaskState.COMPLETED
        return False if self._corrupt.holds(task_id) else None

    def news(self) -> list[tuple[str, bool]]:
        """Awaited tasks that have ended, each reported once, with whether it completed."""
        found = []
        for task_id in self._to_look_up():
            del self.awaited[task_id]
            completed = self.ended(task_id)
            if completed is None:
                self.awaited[task_id] = None  # at the end: next time it is others' turn
                continue
            self._cancelled.forget(task_id)
            found.append((task_id, completed))
            if not completed and self._corrupt.holds(task_id):
                self._warn(task_id)
        return found

    def _to_look_up(self) -> dict[str, None]:
        """Those with a sign, and the next ones in turn."""
        left, whole = self._departures.left()
        signs = left | self._suspects | self._cancelled.there() | self._corrupt.fresh()
        self._suspects.clear()
        self._unsure = self._unsure if whole and not self._missed else len(self.awaited)
        self._missed = False
        limit = min(max(self._unsure, SURE), LOOKED_UP) if self._budget else None
        in_turn = dict.fromkeys(islice(self.awaited, limit))
        self._unsure = max(0, self._unsure - len(in_turn))
        return in_turn | {task_id: None for task_id in signs if task_id in self.awaited}

    def _warn(self, task_id: str) -> None:
        aside = find_quarantined(self._layout, task_id)
        if aside is not None:
            log.warning("Task %s will never end, it %s; its dependents go on, or fail", task_id, aside.words)
