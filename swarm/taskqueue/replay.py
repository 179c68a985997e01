"""After a power cut: what the journals tell of is done again where the disk has lost it.

Only while nobody else works on the root (``Presence`` sees to it). Each line is safe to do twice, and what has gone on since
stays: a line is done only if its file lies where the line took it from, or nowhere at all.
"""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Iterator

from swarm.core.task import TERMINAL, TaskState
from swarm.entries import is_file, list_names, open_file
from swarm.errors import OddEntry, TaskInvalid
from swarm.taskqueue import codec, lookup
from swarm.taskqueue.corrupt import find_set_aside
from swarm.taskqueue.journal import SUFFIX, VOID, is_segment, remove
from swarm.taskqueue.layout import Layout, parse_task_file
from swarm.taskqueue.redo import Redo, decode
from swarm.taskqueue.storage import Storage, read_regular, storage_faults

_SEGMENT_BYTES = 64 << 20
_FINAL = tuple(f"{state}/" for state in TERMINAL)
_ID = re.compile(r"([^/.]+)(?:\.[0-9]+)?\.json\Z")
_TAKEN_BACK = re.compile(rb"([0-9a-f]{8}) (\S+)\n?\Z")


@storage_faults("what the journals tell of cannot be done again")
def replay(layout: Layout) -> tuple[str, ...]:
    """Do again what was lost, flush it, and remove the journals; a line for the log per task. Raises ``StorageFault``."""
    names = [n for n in list_names(layout.journal) if (is_segment(n) or n == VOID) and is_file(f"{layout.journal}/{n}")]
    if not names:
        return ()
    replayer = _Replayer(layout)
    workers = sorted({name.rpartition(".")[0].rpartition(".")[0] for name in names if name != VOID})
    told = [_lines(layout, worker) for worker in workers]
    ends = {end for lines in told for line in lines if (end := _end_of(line)) is not None}
    gone = ends.intersection(_void(layout))
    for lines in told:
        for task_id, line in _counting(lines, gone):
            replayer.do(task_id, line)
    replayer.restore()
    remove(layout, [f"{layout.journal}/{name}" for name in names])
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


def _end_of(line: Redo) -> tuple[int, str] | None:
    """Checksum and task of a line that says that a task ended."""
    found = _ID.search(line.now)
    return (zlib.crc32(line.data), found[1]) if found is not None and line.now.startswith(_FINAL) else None


def _counting(lines: list[Redo], gone: set[tuple[int, str]]) -> list[tuple[str, Redo]]:
    """Without those that say that a task ended in a way that was taken back, and all before them about the same task."""
    counting, dropped = [], set[str]()
    for line in reversed(lines):
        found = _ID.search(line.now)
        if found is None:
            continue  # no path of a task file: another version's
        task_id = found[1]
        if _end_of(line) in gone:
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
            if _same_task(was, line.data):
                self._move(was, now, line, task_id, final=final)
        elif task_id not in self._gone or _progress(line) >= _progress(self._gone[task_id]):
            self._gone[task_id] = line

    def restore(self) -> None:
        """What lies nowhere at all comes back as its last line says.

        So it is with a task that lies where it was before its claim: the brain lets tasks go without a flush.
        """
        for task_id, line in self._gone.items():
            now, located = f"{self._layout.root}/{line.now}", lookup.find(self._layout, task_id)
            if located is None and find_set_aside(self._layout, task_id) is None:
                self._write(now, line, "was lost and is back")
            elif located is not None and _is_before(located, line) and _same_task(located.path, line.data):
                if line.now.startswith(_FINAL):
                    self._write(located.path, line, "is on record again")
                self._storage.make_dir(os.path.dirname(now))
                os.rename(located.path, now)

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

    def _write(self, path: str, line: Redo, what: str) -> None:
        self._storage.make_dir(os.path.dirname(path))
        self._storage.replace(path, line.data, durable=False)
        self.said.append(f"After a power cut: {line.now} {what}")


def _progress(line: Redo) -> float:
    """How far a task has come with this line: to its end, or to an attempt."""
    name = parse_task_file(os.path.basename(line.now))
    return float("inf") if line.now.startswith(_FINAL) or name is None else name.attempt


def _is_before(located: lookup.Located, line: Redo) -> bool:
    """Whether the task lies where it did not stay without a flush, and has not come so far there."""
    return located.state is TaskState.BLOCKED and located.attempt < _progress(line)


def _same_task(path: str, data: bytes) -> bool:
    """Whether what lies there is this very task: one of another time that has its id has another body."""
    try:
        return codec.split(read_regular(path, codec.MAX_FILE_BYTES))[0] == codec.split(data)[0]
    except ValueError:
        return False


def _torn(path: str, data: bytes) -> bool:
    """Whether what lies there is neither this document nor another whole one."""
    try:
        there = read_regular(path, codec.MAX_FILE_BYTES)
        return there != data and codec.parse(there).trail.status is None
    except (TaskInvalid, ValueError):
        return True


def _void(layout: Layout) -> Iterator[tuple[int, str]]:
    """It grows for as long as anybody works here, and a power cut may have torn it."""
    try:
        with open(open_file(f"{layout.journal}/{VOID}"), "rb") as file:
            for line in file:
                found = _TAKEN_BACK.match(line)
                if found is not None:
                    yield int(found[1], 16), found[2].decode(errors="replace")
    except (FileNotFoundError, OddEntry):
        return
