"""The order within each session: one task at a time, the first submitted first.

The current task of a session is the one released last, until it has ended; then the first of those blocked may go.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Container, Mapping

from swarm.queue.brain.release_log import ReleaseLog

Order = tuple[float, str]


class Sessions:
    """For the brain's one thread.

    ``current`` holds the sessions whose current task has not ended; exactly those tasks are awaited for a session.
    """

    def __init__(self, log: ReleaseLog[str], blocked: Container[str], has_ended: Callable[[str], bool]) -> None:
        """``blocked``: names of the files that are there."""
        self._log = log
        self._blocked = blocked
        self._has_ended = has_ended
        self._waiting: dict[str, list[tuple[Order, str]]] = {}
        self._session_of: dict[str, str] = {}
        self.current: dict[str, str] = {}

    def add(self, session: str, order: Order, name: str) -> str | None:
        """A blocked file of this session. The id of its current task, if that is news: its end is to be awaited."""
        heapq.heappush(self._waiting.setdefault(session, []), (order, name))
        return self._follow_log(session)

    def goes(self, session: str | None, task_id: str, name: str) -> bool:
        """Whether all tasks before this blocked one have ended."""
        if session is None:
            return True
        current = self.current.get(session)
        return self.first(session) == name if current is None else current == task_id

    def first(self, session: str) -> str | None:
        """The first blocked file of a session; what is missing is dropped from its heap on the way."""
        heap = self._waiting.get(session, [])
        while heap and heap[0][1] not in self._blocked:
            heapq.heappop(heap)
        if heap:
            return heap[0][1]
        self._waiting.pop(session, None)
        return None

    def noted(self, session: str) -> str | None:
        """The task released last, ended or not."""
        return self._log.get(session)

    def note(self, turns: Mapping[str, str]) -> list[str]:
        """Put these (session, task) on record before the tasks are released; ids to be awaited. Raises ``OSError``."""
        self._log.note(turns)
        return [task_id for session in turns if (task_id := self._follow_log(session)) is not None]

    def ended(self, task_id: str) -> str | None:
        """A task has ended; the session that goes on now, if it was the current one of that."""
        session = self._session_of.pop(task_id, None)
        if session is not None:
            del self.current[session]
        return session

    def awaits(self, task_id: str) -> bool:
        """Whether a session waits for this task's end."""
        return task_id in self._session_of

    def _follow_log(self, session: str) -> str | None:
        noted, known = self._log.get(session), self.current.get(session)
        if noted is None or noted == known or self._has_ended(noted):
            return None
        if known is not None:
            del self._session_of[known]
        self.current[session] = noted
        self._session_of[noted] = session
        return noted
