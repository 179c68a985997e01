"""A worker's journal: what an exchange did, made durable with one write, so that no file and no name must be flushed then.

It is read after a power cut only (``replay``): a ``kill -9`` leaves the files themselves as they are, and they are what
counts. Two segments of fixed size take turns. Their blocks are written when they are made, so that a line changes no
metadata, and past the page cache, so that it costs one write and one flush of the disk. When one is full the other goes on,
while everything that its lines tell of is flushed where it lies; then its lines are void.
"""

from __future__ import annotations

import errno
import logging
import mmap
import os
import threading
import weakref
import zlib
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress

from swarm.core.task import ID_RE
from swarm.disk import NOT_THERE, sync_fd, sync_file_system, tells_errors
from swarm.entries import is_file, list_names
from swarm.taskqueue import redo
from swarm.taskqueue.layout import Layout
from swarm.taskqueue.redo import BLOCK_BYTES, Redo
from swarm.taskqueue.storage import DIR_MODE, FILE_MODE, Storage, write_all

log = logging.getLogger(__name__)

SUFFIX = ".jsonl"
VOID = "void"
"""Lines of ``<checksum> <task id>``, each begun with a new line: records that were taken back."""
SEGMENT_BYTES = 2 << 20
_DURABLE = os.O_WRONLY | os.O_DSYNC | os.O_NOFOLLOW | os.O_CLOEXEC
BATCH_BYTES = 256 << 10
"""More than this is flushed where it lies: writing it twice would cost more."""
BEGIN_AFTER = 16
"""Exchanges before a journal is made: a worker that does little needs none."""
VOID_AFTER_S = 5.0
"""What was done so long ago is flushed where it lies, also when little is done: what people do by hand then stays done."""


class Journal:
    """For who holds the worker's life lock.

    ``turn`` is held from the write of a line until what it says has been done, so that no line is void before.
    """

    def __init__(self, layout: Layout, worker: str) -> None:
        self._layout = layout
        self._worker = worker
        self.turn = threading.Lock()
        self._turns = 0
        self._number = 0
        self._fills: _Segment | None = None
        self._rests: _Segment | None = None
        """The other one; None while it is being flushed, and for ever if that failed."""
        self._sync_fd = -1
        self._maker: threading.Timer | None = None
        self._dated = False
        """Somebody is going to void what is in there by now."""

    def write(self, redos: Sequence[Redo]) -> bool:
        """Make these moves durable, in the holder's turn. False: the caller must flush what it did itself."""
        self._turns += 1
        if self._fills is None:
            if self._turns == BEGIN_AFTER and tells_errors():
                self._maker = _aside(self._begin)
            return False
        data = redo.encode(redos, self._fills.generation, self._number)
        if len(data) > BATCH_BYTES:
            return False
        if not self._fills.room(len(data)):
            if not self._swap():
                return False
            data = redo.encode(redos, self._fills.generation, self._number)
        try:
            self._fills.write(data)
        except OSError as exc:
            log.warning("The journal could not be written (%s); everything is flushed one by one", exc)
            return False
        self._number += len(redos)
        if not self._dated:
            self._dated = True
            _aside(self._void_in_time, after_s=VOID_AFTER_S)
        return True

    def close(self) -> None:
        """Flush what its lines tell of where it lies, and remove it. Without this the next start does."""
        if self._maker is not None:
            self._maker.join()
        with self.turn:
            begun, self._fills, self._rests = self._fills is not None, None, None
            if begun:
                forget(self._layout, self._worker)

    def _begin(self) -> None:
        """Make the segments; where that fails (a full disk, say) work goes on without."""
        folder = self._layout.journal
        try:
            forget(self._layout, self._worker)
            os.makedirs(folder, mode=DIR_MODE, exist_ok=True)
            self._sync_fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            weakref.finalize(self, os.close, self._sync_fd)
            storage = Storage("full", self._layout.root)
            for path in _paths(folder, self._worker):
                storage.make_way(path)
            rests, fills = (_Segment(path) for path in _paths(folder, self._worker))
            sync_file_system(self._sync_fd)  # where that cannot be done, no line could ever be made void
        except OSError as exc:
            log.info("No journal (%s); everything is flushed one by one", exc)
            for path in _paths(folder, self._worker):
                with suppress(OSError):  # what stays holds no line; the next start removes it
                    os.unlink(path)
            return
        self._rests = rests
        self._fills = fills

    def _swap(self) -> bool:
        """Go on in the other segment, in the holder's turn, while this one is flushed. False: it is not free yet."""
        old, free = self._fills, self._rests
        if old is None or free is None:
            return False
        self._fills, self._rests = free, None
        _aside(lambda: self._void(old))
        return True

    def _void(self, segment: _Segment) -> None:
        try:
            sync_file_system(self._sync_fd)
            segment.void()
        except OSError as exc:  # its lines stay: the next start does again what they tell of
            log.error("What a journal tells of could not be flushed (%s); everything is flushed one by one now", exc)  # noqa: TRY400
            return
        self._rests = segment

    def _void_in_time(self) -> None:
        with self.turn:
            told = self._fills is not None and self._fills.at > BLOCK_BYTES
            self._dated = told and not self._swap()
        if self._dated:
            _aside(self._void_in_time, after_s=VOID_AFTER_S)


class _Segment:
    """One preallocated file."""

    def __init__(self, path: str) -> None:
        self._path = path
        self.generation = 1
        self.at = BLOCK_BYTES
        _allocate(path)
        self._aligned = memoryview(mmap.mmap(-1, BATCH_BYTES))
        self._fd = _open_direct(path)
        self._close = weakref.finalize(self, os.close, self._fd)
        try:
            self._put(redo.header(self.generation), 0)
        except OSError as exc:
            if exc.errno not in NOT_THERE:
                raise
            self._close()  # opened past the page cache, but not written: there are such file systems
            self._fd = _open_cached(path)
            self._close = weakref.finalize(self, os.close, self._fd)

    def room(self, size: int) -> bool:
        return self.at + size <= SEGMENT_BYTES

    def write(self, data: bytes) -> None:
        """Durable when this returns. Raises ``OSError``; then the next write goes to the same place."""
        self._put(data, self.at)
        self.at += len(data)

    def void(self) -> None:
        """From here on none of its lines counts, also after a power cut. Raises ``OSError``."""
        self._put(redo.header(self.generation + 1), 0)
        self.generation += 1
        self.at = BLOCK_BYTES

    def _put(self, data: bytes, offset: int) -> None:
        piece = self._aligned[: len(data)]
        piece[:] = data
        if os.pwritev(self._fd, (piece,), offset) != len(data):
            raise OSError(errno.EIO, "a line was cut short", self._path)


def forget(layout: Layout, worker: str) -> None:
    """Make what the journal of a worker's earlier life tells of durable where it lies, and remove it. Raises ``OSError``.

    The caller holds the worker's life lock. Only while that file system has lived on: otherwise ``replay`` comes first.
    """
    there = [path for path in _paths(layout.journal, worker) if is_file(path)]
    if there:
        remove(layout, there)


def left_by(layout: Layout, worker: str) -> bool:
    """Whether there is a journal of this worker."""
    return any(is_file(path) for path in _paths(layout.journal, worker))


def remove(layout: Layout, paths: Iterable[str]) -> None:
    """Flush the file system, then remove these files durably. Raises ``OSError``."""
    paths = list(paths)
    if not paths:
        return
    fd = os.open(layout.journal, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _sync_all(fd)
        for path in paths:
            os.unlink(path)
        sync_fd(fd)
    finally:
        os.close(fd)


def void_records(layout: Layout, gone: Iterable[tuple[str, bytes]]) -> None:
    """Lines that say that a task ended with just this document count no more: it was put back. Raises ``OSError``."""
    if not any(is_segment(name) for name in list_names(layout.journal)):
        return
    text = "".join(f"\n{zlib.crc32(data):08x} {task_id}" for task_id, data in gone).encode()  # a line cut short ends there
    fd = Storage("full", layout.root).open_own(f"{layout.journal}/{VOID}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        if os.write(fd, text) != len(text):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), f"{layout.journal}/{VOID}")
        sync_fd(fd)
    finally:
        os.close(fd)


def is_segment(name: str) -> bool:
    """Whether it is the name of a worker's segment."""
    return name.endswith((f".0{SUFFIX}", f".1{SUFFIX}")) and ID_RE.fullmatch(name[: -len(SUFFIX) - 2]) is not None


def _paths(folder: str, worker: str) -> tuple[str, str]:
    return f"{folder}/{worker}.0{SUFFIX}", f"{folder}/{worker}.1{SUFFIX}"


def _allocate(path: str) -> None:
    """With every block written: one that is only reserved costs a change of metadata at its first write."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, FILE_MODE)
    try:
        write_all(fd, redo.header(1).ljust(SEGMENT_BYTES - 1) + b"\n", 0)
        sync_fd(fd)
    finally:
        os.close(fd)


def _open_direct(path: str) -> int:
    """Each write durable at its return; past the page cache where the file system can do that."""
    try:
        return os.open(path, _DURABLE | getattr(os, "O_DIRECT", 0))
    except OSError as exc:
        if exc.errno not in NOT_THERE:
            raise
        return _open_cached(path)


def _open_cached(path: str) -> int:
    return os.open(path, _DURABLE)


def _sync_all(fd: int) -> None:
    """The file system of ``fd``; where a filter forbids that, all file systems, though no error is told of then."""
    try:
        sync_file_system(fd)
    except OSError as exc:
        if exc.errno not in NOT_THERE:
            raise
        os.sync()


def _aside(act: Callable[[], None], after_s: float = 0.0) -> threading.Timer:
    timer = threading.Timer(after_s, act)
    timer.daemon = True
    timer.start()
    return timer
