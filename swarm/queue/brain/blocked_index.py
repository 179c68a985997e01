"""What each blocked task waits for. Each file is read once; a turn costs what changed, however many wait.

A session's tasks go one at a time, in the order of submission: the first of those blocked is let go when the one let go
before it has ended (``sessions.TurnLedger``).

Which tasks each blocked one still waits for, which of them failed it and how, and who waits for whose end.
"""

from __future__ import annotations

import heapq
import os
import time
from collections.abc import Callable, Collection, Mapping

from swarm.core.lanes import model_of_lane
from swarm.core.pauses import Pauses
from swarm.core.snapshot import BlockedView
from swarm.queue.brain.blocked_entry import Entry, read_entry, reading_order
from swarm.queue.brain.blocked_watch import BlockedNames
from swarm.queue.brain.completions import Endings, HowEnded
from swarm.queue.brain.result_refs import NeedLedger
from swarm.queue.brain.sessions import Sessions
from swarm.queue.layout import Layout
from swarm.queue.storage.files import Storage


class Dependencies:
    """Of the blocked files, by name; for one thread."""

    def __init__(
        self, layout: Layout, endings: Endings, blocked: Mapping[str, Entry], awaited: Callable[[str], bool]
    ) -> None:
        """``blocked``: the files that are there; ``awaited(task id)``: whether anything else waits for that end, too."""
        self._endings = endings
        self._blocked = blocked
        self._awaited = awaited
        self._how = HowEnded(layout)
        self._open: dict[str, set[str]] = {}
        self._failed: dict[str, str] = {}
        self._dependents: dict[str, set[str]] = {}

    def add(self, entry: Entry) -> None:
        """A blocked file: looks up what it depends on, and asks to be told of what has not ended."""
        for wanted in entry.depends_on:
            completed = self._endings.ended(wanted)
            if completed is None:
                self._open.setdefault(entry.name, set()).add(wanted)
                self._dependents.setdefault(wanted, set()).add(entry.name)
                self._endings.watch(wanted)
            elif not completed and not entry.runs_anyway:
                self._failed.setdefault(entry.name, wanted)

    def drop(self, name: str) -> None:
        """It is not blocked any more; ends that nobody else waits for are followed no longer."""
        for wanted in self._open.pop(name, ()):
            self._dependents[wanted].discard(name)
            self._forget_if_unwanted(wanted)
        self._failed.pop(name, None)

    def note_end(self, task_id: str, *, completed: bool) -> Collection[str]:
        """A task has ended; names of the files that waited for it."""
        self._how.forget(task_id)
        names = self._dependents.pop(task_id, set())
        for name in names:
            self._open[name].discard(task_id)
            if not completed and not self._blocked[name].runs_anyway:
                self._failed.setdefault(name, task_id)
        return names

    def met(self, name: str) -> bool:
        """Whether it waits for no task, whether these completed or not."""
        return not self._open.get(name)

    def failed(self, name: str) -> str | None:
        """The id of a task that did not complete, for which it must not run."""
        return self._failed.get(name)

    def failed_how(self, name: str) -> str:
        """In what way that task did not complete, and why."""
        return self._how.of(self._failed.get(name))

    def waiting_for(self, entry: Entry) -> tuple[str, ...]:
        """Ids of what has not ended, as its ``depends_on`` has them."""
        open_ids = self._open.get(entry.name, ())
        return tuple(wanted for wanted in entry.depends_on if wanted in open_ids)

    def _forget_if_unwanted(self, task_id: str) -> None:
        if not self._dependents.get(task_id):
            self._dependents.pop(task_id, None)
            if not self._awaited(task_id):
                self._endings.forget(task_id)


READING_S = 0.5
"""Longest time one look spends on reading files: a brain that starts beside very many goes on with its other duties."""
MOST_READY = 1000
"""Tasks let go in one turn: the brain has other things to see to as well."""
AGAIN_S = 2.0
"""After a fault of the disk files are read again."""


class BlockedIndex:
    """Remembers blocked files between looks; for one thread. With ``ready_only`` a look answers only what may matter now."""

    def __init__(
        self, layout: Layout, storage: Storage, pauses: Callable[[], Pauses] = Pauses, *, ready_only: bool = False
    ) -> None:
        self._layout = layout
        self._storage = storage
        self._ready_only = ready_only
        self._read_pauses = pauses
        self._pauses = Pauses()
        self._held: dict[str, set[str]] = {}
        self._names = BlockedNames(layout, watch=ready_only)
        self._endings = Endings(layout, budget=ready_only)
        self._entries: dict[str, Entry] = {}
        self._needs = NeedLedger(layout, storage)
        self._sessions = Sessions(layout, storage, self._endings, self._entries)
        self._dependencies = Dependencies(layout, self._endings, self._entries, self._sessions.awaits)
        self._due: list[tuple[float, str]] = []
        self._past: set[str] = set()
        """Whose time has come: it has, also when the clock is set back."""
        self._ready: dict[str, None] = {}
        self._resource: set[str] = set()
        self._unread: dict[str, None] = {}
        self._again_s = 0.0
        self._unsettled: frozenset[str] = frozenset()

    def look(self) -> tuple[BlockedView, ...]:
        """All blocked tasks in the order of submission; with ``ready_only`` those that may go, must fail, or come due next.

        Raises ``OSError``.
        """
        self._follow_pauses()
        self._follow()
        for task_id, completed in self._endings.news():
            self._note_end(task_id, completed=completed)
        now_s = time.time()
        while self._due and self._due[0][0] <= now_s:
            name = heapq.heappop(self._due)[1]
            if name in self._entries:
                self._past.add(name)
                self._judge(name)
        names = self._worth_telling() if self._ready_only else self._entries
        entries = sorted((self._entries[name] for name in names), key=lambda entry: entry.order)
        return tuple(self._view(entry, now_s) for entry in entries)

    def __len__(self) -> int:
        """How many are blocked, as of the last look."""
        return len(self._entries) + len(self._unread)

    def dependencies(self) -> frozenset[str]:
        """Ids that blocked tasks depend on, as of the last look."""
        return frozenset(wanted for entry in self._entries.values() for wanted in entry.depends_on)

    @property
    def whole(self) -> bool:
        """Whether every blocked file has been read."""
        return not self._unread

    def maps(self) -> frozenset[str]:
        """Mapped tasks that wait for their children, as of the last look."""
        return frozenset(entry.task_id for entry in self._entries.values() if entry.step == "gather")

    def entry(self, task_id: str, attempt: int) -> tuple[str, Entry] | None:
        """Path and content of one blocked task; None if it is not there any more."""
        path = self._layout.blocked_file(task_id, attempt)
        name = os.path.basename(path)
        entry = self._entries.get(name) or self._read(name)
        return None if entry is None else (path, entry)

    def read_again(self, task_id: str, attempt: int) -> None:
        """Its content was changed where it lies."""
        name = os.path.basename(self._layout.blocked_file(task_id, attempt))
        self._unread[name] = None
        self._take_in(name)

    def note_turn(self, entry: Entry) -> None:
        """Put on record that it is its session's current task, before it is let go; with it all others about to go.

        Raises ``OSError``.
        """
        if entry.session is None or self._sessions.on_record(entry.session) == entry.task_id:
            return
        turns = {entry.session: entry.task_id}
        for other in (self._entries.get(name) for name in self._ready):
            if other is not None and other.session is not None and self._goes(other):
                turns.setdefault(other.session, other.task_id)
        self._sessions.note(turns)

    def note_needs(self, entry: Entry) -> None:
        """Put on record whose results it will ask for, before it is let go; with it all others about to go.

        Raises ``OSError``.
        """
        if not entry.needs or self._needs.known(entry.task_id):
            return
        ready = (self._entries.get(name) for name in self._ready)
        others = {one.task_id: one.needs for one in ready if one is not None and one.needs}
        self._needs.note({**others, entry.task_id: entry.needs})

    # -- following the files -------------------------------------------------------------------------------------------

    def _follow_pauses(self) -> None:
        before, self._pauses = self._pauses, self._read_pauses()
        if self._pauses != before:
            resumed = [batch for batch in self._held if self._pauses.batch(batch) is None]
            for name in [name for batch in resumed for name in self._held.pop(batch)]:
                self._judge(name)

    def _follow(self) -> None:
        changes = self._names.changes()
        again = self._unsettled
        self._unsettled = changes.unsettled
        self._endings.suspect(changes.removed)
        for name in (*changes.removed, *changes.added):
            self._drop(name)
            self._unread.pop(name, None)
        if changes.added:
            self._unread = dict.fromkeys(sorted((*self._unread, *changes.added), key=reading_order))
        self._read_some()
        for name in again:
            self._judge(name)

    def _read_some(self) -> None:
        """In the order of submission: whatever is known then has no forerunner that is not, so turns can be told early."""
        until_s = time.monotonic() + READING_S if self._ready_only else float("inf")
        while self._unread and self._again_s <= time.monotonic() < until_s:
            name = next(iter(self._unread))
            try:
                self._take_in(name)
            except OSError:
                self._unread[name] = self._unread.pop(name)  # one bad sector holds up neither the others nor every look
                self._again_s = time.monotonic() + AGAIN_S
                raise

    def _take_in(self, name: str) -> None:
        """Read it, anew if it is known. Raises ``OSError``; then it stays to be read."""
        self._drop(name)
        entry = self._read(name)
        if entry is not None:
            self._add(entry)
        del self._unread[name]

    def _read(self, name: str) -> Entry | None:
        return read_entry(self._layout, self._storage, name)

    def _add(self, entry: Entry) -> None:
        name = entry.name
        self._entries[name] = entry
        self._dependencies.add(entry)
        if entry.session is not None:
            self._sessions.add(entry.session, entry.order, name)
        if entry.due_s is not None:
            heapq.heappush(self._due, (entry.due_s, name))
        if entry.resource:
            self._resource.add(name)
        self._judge(name)

    def _drop(self, name: str) -> None:
        entry = self._entries.pop(name, None)
        if entry is None:
            return
        self._dependencies.drop(name)
        self._ready.pop(name, None)
        self._resource.discard(name)
        self._past.discard(name)
        if entry.session is not None:
            self._judge_head(entry.session)

    # -- what happens --------------------------------------------------------------------------------------------------

    def _note_end(self, task_id: str, *, completed: bool) -> None:
        for name in self._dependencies.note_end(task_id, completed=completed):
            self._judge(name)
        session = self._sessions.ended(task_id)
        if session is not None:
            self._judge_head(session)

    def _judge_head(self, session: str) -> None:
        head = self._sessions.head(session)
        if head is not None:
            self._judge(head)

    def _judge(self, name: str) -> None:
        entry = self._entries.get(name)
        if entry is None:
            return
        if self._dependencies.failed(name) is not None:
            self._ready[name] = None
        elif self._goes(entry):
            if entry.batch_id is not None and self._pauses.batch(entry.batch_id) is not None:
                self._held.setdefault(entry.batch_id, set()).add(name)
            else:
                self._ready[name] = None

    def _goes(self, entry: Entry) -> bool:
        due = entry.due_s is None or entry.name in self._past or entry.due_s <= time.time()
        return due and self._dependencies.met(entry.name) and self._on_turn(entry)

    def _on_turn(self, entry: Entry) -> bool:
        return entry.name not in self._unsettled and self._sessions.on_turn(entry.session, entry.task_id, entry.name)

    # -- telling -------------------------------------------------------------------------------------------------------

    def _worth_telling(self) -> set[str]:
        """What is ready is judged again: a newcomer may have taken its place in the session."""
        names: set[str] = set(self._resource)
        for name in list(self._ready):
            if self._dependencies.failed(name) is None:
                del self._ready[name]
                self._judge(name)
                if name not in self._ready:
                    continue
            names.add(name)
            if len(names) >= MOST_READY:
                break
        while self._due and self._due[0][1] not in self._entries:
            heapq.heappop(self._due)
        if self._due:
            names.add(self._due[0][1])
        return names

    def _view(self, entry: Entry, now_s: float) -> BlockedView:
        left_s = None if entry.due_s is None else 0.0 if entry.name in self._past else entry.due_s - now_s
        return BlockedView(
            task_id=entry.task_id,
            attempt=entry.attempt,
            model=model_of_lane(entry.lane),
            due_in_s=left_s,
            waiting_for=self._dependencies.waiting_for(entry),
            failed_dependency=self._dependencies.failed(entry.name),
            failed_how=self._dependencies.failed_how(entry.name),
            step=entry.step,
            batch_paused=entry.batch_id if self._pauses.batch(entry.batch_id) else None,
            session_turn=self._on_turn(entry),
        )
