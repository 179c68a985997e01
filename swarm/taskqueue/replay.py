"""After a power cut: what the journals tell of is done again where the disk has lost it.

Only while nobody else works on the root (``Presence`` sees to it). Each line is safe to do twice, and what has gone on since
stays: a line is done only if its file lies where the line took it from, or nowhere at all.
"""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Iterator

from swarm.core.task import TERMINAL
from swarm.errors import TaskInvalid
from swarm.taskqueue import codec, lookup
from swarm.taskqueue.buckets import list_names
from swarm.taskqueue.corrupt import find_set_aside
from swarm.taskqueue.journal import SUFFIX, VOID, remove
from swarm.taskqueue.layout import Layout
from swarm.taskqueue.redo import Redo, decode
from swarm.taskqueue.storage import Storage, read_regular, storage_faults

_VOID_BYTES = 16 << 20
_SEGMENT_BYTES = 64 << 20
_FINAL = tuple(f"{state}/" for state in TERMINAL)
_ID = re.compile(r"([^/.]+)(?:\.[0-9]+)?\.json\Z")


@storage_faults("what the journals tell of cannot be done again")
def replay(layout: Layout) -> tuple[str, ...]:
    """Do again what was lost, flush it, and remove the journals; a line for the log per task. Raises ``StorageFault``."""
    names = list_names(layout.journal)
    if not names:
        return ()
    replayer, gone = _Replayer(layout), frozenset(_void(layout))
    for worker in sorted({name.rpartition(".")[0].rpartition(".")[0] for name in names if name.endswith(SUFFIX)}):
        for task_id, line in _counting(_lines(layout, worker), gone):
            replayer.do(task_id, line)
    replayer.restore()
    remove(layout, [f"{layout.journal}/{name}" for name in names if name.endswith(SUFFIX) or name == VOID])
    return tuple(replayer.said)


def _lines(layout: Layout, worker: str) -> list[Redo]:
    """One worker's moves in their order, over both segments."""
    found: list[tuple[int, Redo]] = []
    for number in (0, 1):
        try:
            found.extend(decode(read_regular(f"{layout.journal}/{worker}.{number}{SUFFIX}", _SEGMENT_BYTES)))
        except (FileNotFoundError, ValueError):
            continue  # a worker that died while it made them, or no file of ours: nothing was said by it
    return [line for _, line in sorted(found, key=lambda pair: pair[0])]


def _counting(lines: list[Redo], gone: frozenset[tuple[int, str]]) -> list[tuple[str, Redo]]:
    """Without those that say that a task ended in a way that was taken back, and all before them about the same task."""
    counting, dropped = [], set[str]()
    for line in reversed(lines):
        found = _ID.search(line.now)
        if found is None:
            continue  # no path of a task file: another version's
        task_id = found[1]
        if line.now.startswith(_FINAL) and (zlib.crc32(line.data), task_id) in gone:
            dropped.add(task_id)
        if task_id not in dropped:
            counting.append((task_id, line))
    return counting[::-1]


class _Replayer:
    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._storage = Storage("full", layout.root)
        self._gone: dict[str, Redo] = {}
        self.said: list[str] = []

    def do(self, task_id: str, line: Redo) -> None:
        """Do it if its file lies where it was. What lies in neither place is kept for the end, when all else is done."""
        final = line.now.startswith(_FINAL)
        now, was = f"{self._layout.root}/{line.now}", f"{self._layout.root}/{line.was}"
        if os.path.lexists(now):
            if final and _torn(now, line.data):
                self._write(now, line, "was torn and is whole")
            self._remove_double(was, now)
        elif os.path.lexists(was):
            self._move(was, now, line, task_id, final=final)
        elif final or not self._gone.get(task_id, line).now.startswith(_FINAL):
            self._gone[task_id] = line

    def restore(self) -> None:
        """What lies nowhere at all comes back as its last line says."""
        for task_id, line in self._gone.items():
            if not self._somewhere(task_id):
                self._write(f"{self._layout.root}/{line.now}", line, "was lost and is back")

    def _move(self, was: str, now: str, line: Redo, task_id: str, *, final: bool) -> None:
        if any(os.path.lexists(self._layout.terminal(state, task_id)) for state in TERMINAL):
            return
        if final:
            self._write(now, line, "is on record again")
            os.unlink(was)
        else:
            self._storage.make_dir(os.path.dirname(now))
            os.rename(was, now)

    def _remove_double(self, was: str, now: str) -> None:
        """A file under both names: a disk without a journal has kept one half of a rename."""
        try:
            double = os.lstat(was)
        except FileNotFoundError:
            return
        if double.st_nlink == 1 and double.st_ino == os.lstat(now).st_ino:
            self._storage.replace(now, read_regular(now, codec.MAX_FILE_BYTES), durable=False)
        os.unlink(was)

    def _somewhere(self, task_id: str) -> bool:
        return lookup.find(self._layout, task_id) is not None or find_set_aside(self._layout, task_id) is not None

    def _write(self, path: str, line: Redo, what: str) -> None:
        self._storage.make_dir(os.path.dirname(path))
        self._storage.replace(path, line.data, durable=False)
        self.said.append(f"After a power cut: {line.now} {what}")


def _torn(path: str, data: bytes) -> bool:
    """Whether what lies there is neither this document nor another whole one."""
    try:
        there = read_regular(path, codec.MAX_FILE_BYTES)
        return there != data and codec.parse(there).trail.status is None
    except (TaskInvalid, ValueError):
        return True


def _void(layout: Layout) -> Iterator[tuple[int, str]]:
    try:
        lines = read_regular(f"{layout.journal}/{VOID}", _VOID_BYTES).decode(errors="replace").splitlines()
    except FileNotFoundError:
        return
    for line in lines:
        crc, _, task_id = line.partition(" ")
        if len(crc) == 8 and task_id:
            yield int(crc, 16), task_id
