"""Which of the awaited tasks have ended, at a bounded cost per look however many are awaited.

A task ends by moving from ``processing`` to a terminal directory. So those that were running at the last look are looked up
at once, and of the others a bounded number in turn: that finds what ran in between, or was cancelled.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import islice

from swarm.core.task import TERMINAL, TaskState
from swarm.taskqueue.buckets import list_names
from swarm.taskqueue.layout import Layout, parse_task_file

LOOKED_UP = 500
"""Awaited tasks looked up per look: a few milliseconds; four times as many while nothing runs."""


class Endings:
    """For one thread."""

    def __init__(self, layout: Layout, *, budget: bool) -> None:
        """Without ``budget`` every look is a whole one."""
        self._layout = layout
        self._budget = budget
        self._awaited: dict[str, None] = {}
        self._ran: set[str] = set()

    def watch(self, task_id: str) -> None:
        """Its end is to be told."""
        self._awaited.setdefault(task_id)

    def forget(self, task_id: str) -> None:
        """Nobody waits for it any more."""
        self._awaited.pop(task_id, None)

    def ended(self, task_id: str) -> bool | None:
        """Whether it completed; None while it has not ended. One to three ``access`` calls."""
        for state in TERMINAL:
            if os.access(self._layout.terminal(state, task_id), os.F_OK):
                return state is TaskState.COMPLETED
        return None

    def news(self) -> Iterator[tuple[str, bool]]:
        """Awaited tasks that have ended, each told once."""
        running = self._running() if self._awaited else set()
        asked = dict.fromkeys(task_id for task_id in self._ran - running if task_id in self._awaited)
        limit = None if not self._budget else LOOKED_UP if running else 4 * LOOKED_UP
        asked |= dict.fromkeys(islice(self._awaited, limit))
        self._ran = running
        told = []
        for task_id in asked:
            del self._awaited[task_id]
            completed = self.ended(task_id)
            if completed is None:
                self._awaited[task_id] = None  # at the end: next time it is others' turn
            else:
                told.append((task_id, completed))
        return iter(told)

    def _running(self) -> set[str]:
        found = set()
        for worker in list_names(self._layout.processing):
            for name in list_names(self._layout.held_by(worker)):
                parsed = parse_task_file(name)
                if parsed is not None:
                    found.add(parsed.task_id)
        return found
