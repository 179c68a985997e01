"""Whose turn it is in each session: the task let go last, and once that has ended the first of those blocked.

Turns are kept in one append-only file, written by the brain alone. One is on record before its task moves, so that a brain
that starts knows who is on turn without reading all of ``pending``.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Container, Mapping

import msgspec

from swarm.queue.brain.completions import Endings
from swarm.queue.layout import Layout
from swarm.queue.storage.append_log import LedgerFile, read_ledger
from swarm.queue.storage.files import Storage

_decode = msgspec.json.Decoder(tuple[str, str]).decode


def turns_path(layout: Layout) -> str:
    """The ledger."""
    return f"{layout.sessions}/turns.jsonl"


def read_turns(layout: Layout) -> dict[str, str]:
    """The task let go last, by session."""
    return read_ledger(turns_path(layout), _decode)


class TurnLedger:
    """For the brain's one thread."""

    def __init__(self, layout: Layout, storage: Storage, ended: Callable[[str], bool]) -> None:
        """``ended(task id)``: turns of tasks that have ended need no record, and are dropped when it is compacted."""
        self._file = LedgerFile(turns_path(layout), storage)
        self._ended = ended
        self._turns = read_turns(layout)

    def current(self, session: str) -> str | None:
        """The task let go last."""
        return self._turns.get(session)

    def note(self, turns: Mapping[str, str]) -> None:
        """Put these (session, task) on record with one flush. Raises ``OSError``; then none of them counts."""
        if not turns:
            return
        if self._file.due:
            self._compact()
        self._file.append(turns)
        self._turns.update(turns)

    def _compact(self) -> None:
        """Write it anew without what has ended."""
        kept = {session: task_id for session, task_id in self._turns.items() if not self._ended(task_id)}
        self._file.rewrite(kept)
        self._turns = kept


class Sessions:
    """The order within each session; for the brain's one thread."""

    def __init__(self, layout: Layout, storage: Storage, endings: Endings, blocked: Container[str]) -> None:
        """``blocked``: the names of files that are there."""
        self._layout = layout
        self._storage = storage
        self._endings = endings
        self._blocked = blocked
        self._ledger: TurnLedger | None = None
        self._waiting: dict[str, list[tuple[tuple[float, str], str]]] = {}
        self._current: dict[str, str] = {}
        self._session_of: dict[str, str] = {}

    def add(self, session: str, order: tuple[float, str], name: str) -> None:
        """A blocked file of this session."""
        heapq.heappush(self._waiting.setdefault(session, []), (order, name))
        self._take_over(session)

    def on_turn(self, session: str | None, task_id: str, name: str) -> bool:
        """Whether nothing before this blocked task is unfinished."""
        if session is None:
            return True
        current = self._current.get(session)
        return current == task_id if current is not None else self.head(session) == name

    def head(self, session: str) -> str | None:
        """The first blocked file of a session; what is gone is dropped from its heap on the way."""
        heap = self._waiting.get(session, [])
        while heap and heap[0][1] not in self._blocked:
            heapq.heappop(heap)
        if heap:
            return heap[0][1]
        self._waiting.pop(session, None)
        return None

    def on_record(self, session: str) -> str | None:
        """The task let go last, ended or not."""
        return self._turns.current(session)

    def note(self, turns: Mapping[str, str]) -> None:
        """Put these (session, task) on record before the tasks are let go. Raises ``OSError``."""
        self._turns.note(turns)
        for session in turns:
            self._take_over(session)

    def ended(self, task_id: str) -> str | None:
        """A task has ended; the session that goes on now, if it was one's current task."""
        session = self._session_of.pop(task_id, None)
        if session is not None:
            del self._current[session]
        return session

    def awaits(self, task_id: str) -> bool:
        """Whether a session waits for this task's end."""
        return task_id in self._session_of

    @property
    def _turns(self) -> TurnLedger:
        if self._ledger is None:  # who has no session at all never reads it
            self._ledger = TurnLedger(self._layout, self._storage, lambda task_id: self._endings.ended(task_id) is not None)
        return self._ledger

    def _take_over(self, session: str) -> None:
        """From the ledger who is on turn, unless it has ended."""
        current = self._turns.current(session)
        known = self._current.get(session)
        if current is None or current == known or self._endings.ended(current) is not None:
            return
        if known is not None:
            del self._session_of[known]
        self._current[session] = current
        self._session_of[current] = session
        self._endings.watch(current)
