"""State table of blocked tasks: what each of them waits for.

There is one row per file of ``blocked/``. A look costs what changed, however many wait. A row is in one of these states,
shown by its fields and its session:

| state   | shown by                                                                      | left when                  |
|---------|-------------------------------------------------------------------------------|----------------------------|
| unread  | listed, not read yet: in ``unread``, not in ``rows``                          | it is read                 |
| waiting | ``open`` tasks have not ended, it is not ``due``, or its session has another  | the last of these is over  |
| held    | nothing but a pause of its batch                                              | the pause ends             |
| ready   | nothing: the brain may release it                                             | its file has moved         |
| failed  | ``failed`` names a task that did not complete, for which it must not run      | its file has moved         |

Invariants, between two calls (``tests/unit/queue/test_blocked_table.py`` checks them):

1. ``unread`` and ``rows`` have no name in common; together they are the files there.
2. ``dependents[t]`` are exactly the rows with ``t`` in ``open``; no id has none.
3. Awaited are exactly the ids in ``dependents`` and the current tasks of sessions.
4. ``timers`` has every row that is not ``due``.
5. ``candidates`` has every row that is ready or failed. It may have others, which each look sorts out.
"""

from __future__ import annotations

import heapq
import os
import time
from collections.abc import Callable

import msgspec

from swarm.core.lanes import Pauses, model_of_lane
from swarm.core.snapshot import BlockedView
from swarm.queue.brain.blocked_files import BlockedEntry, BlockedNames, read_entry, reading_order
from swarm.queue.brain.completions import Completions, how_ended
from swarm.queue.brain.release_log import needs_log, turn_log
from swarm.queue.brain.sessions import Sessions
from swarm.queue.layout import Layout
from swarm.queue.storage import Storage

READING_S = 0.5
"""Longest time one look spends on reading files: a brain that starts beside very many goes on with its other duties."""
MOST_READY = 1000
"""Tasks released in one tick: the brain has other things to see to as well."""
AGAIN_S = 2.0
"""After a fault of the disk files are read again."""
SET_BACK_S = 1.0
"""When the clock was set back by so much, what waits for a time is read again: a delay is none longer for that."""


class Row(msgspec.Struct):
    """One blocked file."""

    entry: BlockedEntry
    open: dict[str, None]
    """Tasks it depends on that have not ended, in its own order."""
    due: bool
    """Its time has come; it has, also when the clock is set back."""
    failed: str | None = None
    """A task that did not complete, for which it must not run."""


class BlockedTable:
    """Remembers blocked files between looks; for one thread. With ``ready_only`` a look answers only what may matter now."""

    def __init__(
        self, layout: Layout, storage: Storage, pauses: Callable[[], Pauses] = Pauses, *, ready_only: bool = False
    ) -> None:
        self._layout = layout
        self._storage = storage
        self._read_pauses = pauses
        self._ready_only = ready_only
        self._names = BlockedNames(layout, watch=ready_only)
        self._needs = needs_log(layout, storage)
        self._again_s = 0.0
        self._now_s = 0.0
        self._resources: set[str] = set()
        self._unsettled: frozenset[str] = frozenset()
        self.pauses = Pauses()
        """As of the last look."""
        self.rows: dict[str, Row] = {}
        self.unread: dict[str, None] = {}
        self.dependents: dict[str, set[str]] = {}
        self.timers: list[tuple[float, str]] = []
        self.candidates: dict[str, None] = {}
        self.completions = Completions(layout, budget=ready_only)
        has_ended = self._has_ended
        self.sessions = Sessions(turn_log(layout, storage, has_ended), self.rows, has_ended)

    def look(self) -> tuple[BlockedView, ...]:
        """All blocked tasks in the order of submission; with ``ready_only`` those that may go, must fail, or come due next.

        Raises ``OSError``.
        """
        self._follow_pauses()
        self._follow_files()
        if self.completions.awaited:
            for task_id, completed in self.completions.news():
                self._note_end(task_id, completed=completed)
        now_s = time.time()
        self._note_time(now_s)
        rows = [self.rows[name] for name in (self._worth_telling() if self._ready_only else self.rows)]
        how = {failed: how_ended(self._layout, failed) for failed in {row.failed for row in rows} if failed is not None}
        return tuple(self._view(row, now_s, how) for row in sorted(rows, key=lambda row: row.entry.order))

    def __len__(self) -> int:
        """How many are blocked, as of the last look."""
        return len(self.rows) + len(self.unread)

    def dependencies(self) -> frozenset[str]:
        """Ids that blocked tasks depend on, as of the last look."""
        return frozenset(wanted for row in self.rows.values() for wanted in row.entry.depends_on)

    def maps(self) -> frozenset[str]:
        """Mapped tasks that wait for their children, as of the last look."""
        return frozenset(row.entry.task_id for row in self.rows.values() if row.entry.step == "gather")

    def find(self, task_id: str, attempt: int) -> tuple[str, BlockedEntry] | None:
        """Path and content of one blocked task; None if it is not there any more."""
        path = self._layout.blocked_file(task_id, attempt)
        row = self.rows.get(os.path.basename(path))
        entry = read_entry(self._layout, self._storage, os.path.basename(path)) if row is None else row.entry
        return None if entry is None else (path, entry)

    def read_again(self, task_id: str, attempt: int) -> None:
        """Read it anew: its content was changed in place."""
        name = os.path.basename(self._layout.blocked_file(task_id, attempt))
        self._drop(name)
        self.unread[name] = None
        self._take_in(name)

    def note_turn(self, entry: BlockedEntry) -> None:
        """Put on record that it is its session's current task, before it is released; with it all others about to go.

        Raises ``OSError``.
        """
        if entry.session is None or self.sessions.noted(entry.session) == entry.task_id:
            return
        turns = {entry.session: entry.task_id}
        for row in self._candidates():
            if row.entry.session is not None and self._may_go(row):
                turns.setdefault(row.entry.session, row.entry.task_id)
        for task_id in self.sessions.note(turns):
            self.completions.watch(task_id)

    def note_needs(self, entry: BlockedEntry) -> None:
        """Put on record whose results it will ask for, before it is released; with it all others about to go.

        Raises ``OSError``.
        """
        if entry.needs and self._needs.get(entry.task_id) is None:
            others = {row.entry.task_id: row.entry.needs for row in self._candidates() if row.entry.needs}
            self._needs.note({**others, entry.task_id: entry.needs})

    # -- what changes --------------------------------------------------------------------------------------------------

    def _follow_pauses(self) -> None:
        before, self.pauses = self.pauses, self._read_pauses()
        if self.pauses != before:
            for name, row in self.rows.items():
                if before.batch(row.entry.batch_id) is not None and self.pauses.batch(row.entry.batch_id) is None:
                    self._judge(name)

    def _follow_files(self) -> None:
        changes = self._names.changes()
        again, self._unsettled = self._unsettled, changes.unsettled
        if changes.removed:
            self.completions.suspect(changes.removed)
        for name in (*changes.removed, *changes.added):
            self._drop(name)
        if changes.added:
            self.unread = dict.fromkeys(sorted((*self.unread, *changes.added), key=reading_order))
        # In the order of submission: what is known then has no forerunner that is not, so turns can be told early.
        until_s = time.monotonic() + READING_S if self._ready_only else float("inf")
        while self.unread and self._again_s <= time.monotonic() < until_s:
            self._take_in(next(iter(self.unread)))
        for name in again:
            self._judge(name)

    def _take_in(self, name: str) -> None:
        """Read a file. Raises ``OSError``; then it stays unread, behind all others: one bad sector holds up none of them."""
        try:
            entry = read_entry(self._layout, self._storage, name)
        except OSError:
            self.unread[name] = self.unread.pop(name)
            self._again_s = time.monotonic() + AGAIN_S
            raise
        del self.unread[name]
        if entry is not None:
            self._add(entry)

    def _add(self, entry: BlockedEntry) -> None:
        name = entry.name
        due = entry.due_s is None or entry.due_s <= time.time()
        row = self.rows[name] = Row(entry, {}, due)
        for wanted in entry.depends_on:
            completed = self.completions.ended(wanted)
            if completed is None:
                row.open[wanted] = None
                self.dependents.setdefault(wanted, set()).add(name)
                self.completions.watch(wanted)
            elif not completed and not entry.runs_anyway and row.failed is None:
                row.failed = wanted
        if entry.session is not None and (current := self.sessions.add(entry.session, entry.order, name)) is not None:
            self.completions.watch(current)
        if entry.due_s is not None and not due:
            heapq.heappush(self.timers, (entry.due_s, name))
        if entry.resource is not None:
            self._resources.add(name)
        self._judge(name)

    def _drop(self, name: str) -> None:
        """It is not blocked any more, or must be read anew; ends that nobody else waits for are followed no longer."""
        self.unread.pop(name, None)
        row = self.rows.pop(name, None)
        if row is None:
            return
        for wanted in row.open:
            self.dependents[wanted].discard(name)
            if not self.dependents[wanted]:
                del self.dependents[wanted]
                if not self.sessions.awaits(wanted):
                    self.completions.forget(wanted)
        self.candidates.pop(name, None)
        self._resources.discard(name)
        self._judge_first(row.entry.session)

    def _note_end(self, task_id: str, *, completed: bool) -> None:
        for name in self.dependents.pop(task_id, ()):
            row = self.rows[name]
            del row.open[task_id]
            if not completed and not row.entry.runs_anyway and row.failed is None:
                row.failed = task_id
            self._judge(name)
        self._judge_first(self.sessions.ended(task_id))

    def _note_time(self, now_s: float) -> None:
        if now_s < self._now_s - SET_BACK_S:
            for name in {name for _, name in self.timers if name in self.rows}:
                self._drop(name)
                self.unread[name] = None
        self._now_s = now_s
        while self.timers and (self.timers[0][0] <= now_s or self.timers[0][1] not in self.rows):
            due_s, name = heapq.heappop(self.timers)
            row = self.rows.get(name)
            if row is not None and row.entry.due_s == due_s:
                row.due = True
                self._judge(name)

    def _judge_first(self, session: str | None) -> None:
        first = None if session is None else self.sessions.first(session)
        if first is not None:
            self._judge(first)

    def _judge(self, name: str) -> None:
        row = self.rows.get(name)
        if row is not None and self._is_told(row):
            self.candidates[name] = None

    # -- in which state a row is ---------------------------------------------------------------------------------------

    def _is_told(self, row: Row) -> bool:
        """Whether it is ready or failed."""
        return row.failed is not None or (self._may_go(row) and self.pauses.batch(row.entry.batch_id) is None)

    def _may_go(self, row: Row) -> bool:
        return row.due and not row.open and self._on_turn(row.entry)

    def _on_turn(self, entry: BlockedEntry) -> bool:
        return entry.name not in self._unsettled and self.sessions.goes(entry.session, entry.task_id, entry.name)

    def _has_ended(self, task_id: str) -> bool:
        return self.completions.ended(task_id) is not None

    def _candidates(self) -> list[Row]:
        return [self.rows[name] for name in self.candidates]

    def _worth_telling(self) -> set[str]:
        """What may go, must fail or is a load, and what comes due next. A newcomer may have taken a candidate's turn."""
        names = set(self._resources)
        for name in list(self.candidates):
            if len(names) >= MOST_READY:
                break
            if self._is_told(self.rows[name]):
                names.add(name)
            else:
                del self.candidates[name]
        return names if not self.timers else names | {self.timers[0][1]}

    def _view(self, row: Row, now_s: float, how: dict[str, str]) -> BlockedView:
        entry = row.entry
        return BlockedView(
            task_id=entry.task_id,
            attempt=entry.attempt,
            model=model_of_lane(entry.lane),
            resource=entry.resource,
            due_in_s=None if entry.due_s is None else 0.0 if row.due else entry.due_s - now_s,
            waiting_for=tuple(row.open),
            failed_dependency=row.failed,
            failed_how="failed" if row.failed is None else how[row.failed],
            step=entry.step,
            batch_paused=entry.batch_id if self.pauses.batch(entry.batch_id) else None,
            session_turn=self._on_turn(entry),
        )
