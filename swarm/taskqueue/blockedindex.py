"""What each blocked task waits for. Each file is read once; a turn costs what changed and the dependencies still open.

A session's turn is told by a small ledger: the last task of a session that was let go is written down before it moves,
so that a restarted brain knows who is on turn without reading all of ``pending``.
"""

from __future__ import annotations

import os
import time
import zlib

import msgspec

from swarm.clock import parse_iso
from swarm.core.snapshot import BlockedView
from swarm.core.task import TERMINAL, Task, TaskState
from swarm.errors import TaskInvalid
from swarm.taskqueue import codec
from swarm.taskqueue.buckets import list_names
from swarm.taskqueue.corrupt import set_aside
from swarm.taskqueue.layout import Layout, parse_task_file
from swarm.taskqueue.storage import Storage, read_regular


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One blocked file, as read."""

    task: Task
    attempt: int
    body_size: int
    retry_at: str | None


class BlockedIndex:
    """Remembers blocked files between looks."""

    def __init__(self, layout: Layout, storage: Storage) -> None:
        self._layout = layout
        self._storage = storage
        self._entries: dict[str, Entry] = {}

    def look(self) -> tuple[BlockedView, ...]:
        """All blocked tasks, in the order of their ids (which is the order of submission for ids made here)."""
        names = set(list_names(self._layout.blocked))
        self._entries = {n: e for n, e in self._entries.items() if n in names}
        for name in names.difference(self._entries):
            entry = self._read(name)
            if entry is not None:
                self._entries[name] = entry
        now_s = time.time()
        seen_sessions: set[str] = set()
        return tuple(self._view(self._entries[name], now_s, seen_sessions) for name in sorted(self._entries))

    def entry(self, task_id: str, attempt: int) -> tuple[str, Entry] | None:
        """Path and content of one blocked task; None if it is not there any more."""
        path = self._layout.blocked_file(task_id, attempt)
        entry = self._entries.get(os.path.basename(path)) or self._read(os.path.basename(path))
        return None if entry is None else (path, entry)

    def _read(self, name: str) -> Entry | None:
        parsed = parse_task_file(name)
        path = f"{self._layout.blocked}/{name}"
        if parsed is None:
            return None  # foreign: `swarm queue fsck` names it
        try:
            parts = codec.parse(read_regular(path, codec.MAX_FILE_BYTES))
        except FileNotFoundError:
            return None
        except (TaskInvalid, ValueError) as exc:
            set_aside(self._layout, self._storage, path, str(exc))
            return None
        return Entry(task=parts.task, attempt=parsed.attempt, body_size=parts.body_size, retry_at=parts.trail.retry_at)

    def _view(self, entry: Entry, now_s: float, seen_sessions: set[str]) -> BlockedView:
        task = entry.task
        waiting, failed = self._dependencies(task)
        return BlockedView(
            task_id=task.task_id,
            attempt=entry.attempt,
            due_in_s=_due_in_s(entry, now_s),
            waiting_for=waiting,
            failed_dependency=failed,
            session_turn=self._on_turn(task, seen_sessions),
        )

    def _dependencies(self, task: Task) -> tuple[tuple[str, ...], str | None]:
        waiting = []
        failed = None
        for wanted in task.depends_on:
            state = self._ended(wanted)
            if state is None:
                waiting.append(wanted)
            elif state is not TaskState.COMPLETED and task.on_dependency_failure == "fail":
                failed = failed or wanted
        return tuple(waiting), failed

    def _ended(self, task_id: str) -> TaskState | None:
        return next((s for s in TERMINAL if os.path.lexists(self._layout.terminal(s, task_id))), None)

    def _on_turn(self, task: Task, seen_sessions: set[str]) -> bool:
        if task.session is None:
            return True
        if task.session in seen_sessions:
            return False
        seen_sessions.add(task.session)
        current = self._current(task.session)
        return current is None or current == task.task_id or self._ended(current) is not None

    def _ledger(self, session: str) -> str:
        return f"{self._layout.sessions}/{zlib.crc32(session.encode()):08x}-{len(session)}"

    def _current(self, session: str) -> str | None:
        try:
            data = read_regular(self._ledger(session), 1 << 20)
        except (FileNotFoundError, ValueError):
            return None
        table: dict[str, str] = msgspec.json.decode(data, type=dict[str, str])
        return table.get(session)

    def note_turn(self, task: Task) -> None:
        """Write down that this task is now its session's current one; before it is let go. Raises ``OSError``."""
        if task.session is None:
            return
        path = self._ledger(task.session)
        try:
            table: dict[str, str] = msgspec.json.decode(read_regular(path, 1 << 20), type=dict[str, str])
        except FileNotFoundError:
            table = {}
        table[task.session] = task.task_id
        self._storage.replace(path, msgspec.json.encode(table), durable=True)


def _due_in_s(entry: Entry, now_s: float) -> float | None:
    times = [t for t in (entry.task.not_before, entry.retry_at) if t is not None]
    return max((parse_iso(t) - now_s for t in times), default=None)
