"""Makes standard input, output and error safe to use, before anything else runs.

* Descriptors 0, 1 and 2 are open, though a process may be started with none of them. Otherwise the next file opened would
  get one of these numbers, and output would be written into it.
* Text is UTF-8, whatever the locale; what cannot be encoded is escaped.
* Standard error never fails: a message that nobody can read ends nothing.
* A failed write to standard output has an exception of its own, ``OutputLost``: no other file is at fault.
"""

from __future__ import annotations

import errno
import io
import os
import select
import stat
import sys
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_UTF8_MODE = "PYTHONUTF8"


class OutputLost(Exception):
    """Standard output takes no more: its reader ended, its disk is full, its terminal was closed.

    No ``OSError``: whoever handles those means files, and would blame one of them.
    """

    def __init__(self, problem: OSError) -> None:
        super().__init__(f"standard output cannot be written: {problem.strerror}")
        self.reader_gone = problem.errno == errno.EPIPE or (problem.errno == errno.EIO and _is_device(1))
        """Whether nobody is there to read it: the other end of a pipe has all it wanted, or a terminal was closed."""


def _is_device(fd: int) -> bool:
    return stat.S_ISCHR(os.fstat(fd).st_mode)


class _Stream(io.FileIO):
    """A descriptor that somebody else opened, perhaps not blocking, for writing."""

    def __init__(self, fd: int, *, must_arrive: bool) -> None:
        super().__init__(fd, "wb", closefd=False)
        self._must_arrive = must_arrive

    def forget(self) -> None:
        """From now on what is written is dropped."""
        self._must_arrive = False

    def write(self, data: ReadableBuffer, /) -> int:
        """Waits where the other end is slow. Raises ``OutputLost`` unless it may be dropped."""
        try:
            while (written := super().write(data)) is None:
                select.select([], [self.fileno()], [])
        except OSError as problem:
            if self._must_arrive:
                raise OutputLost(problem) from problem
            return memoryview(data).nbytes
        return written


def prepare() -> None:
    """Make all three fit for use. To be called before anything is opened that stays open; may start this program anew."""
    _utf8_mode()
    _reopen_missing()
    if sys.stdin is None:
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115  (it stays open)
    sys.stdout = _text(_Stream(1, must_arrive=True), sys.stdout)
    sys.stderr = _text(_Stream(2, must_arrive=False), None)


def _utf8_mode() -> None:
    """In a locale that is not UTF-8, names and texts would look damaged: start anew in Python's UTF-8 mode.

    What this process starts is in that mode as well.
    """
    if sys.getfilesystemencoding().lower() in ("utf-8", "utf8") or os.environ.get(_UTF8_MODE) == "1" or not sys.executable:
        return
    os.environ[_UTF8_MODE] = "1"
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606  (no shell is wanted)


def _reopen_missing() -> None:
    """Put the null device where a descriptor is missing; children inherit it."""
    for fd, flags in ((0, os.O_RDONLY), (1, os.O_WRONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(fd)
        except OSError:
            opened = os.open(os.devnull, flags)  # the lowest free number, which is this one
            assert opened == fd
            os.set_inheritable(fd, True)


def _text(stream: _Stream, like: TextIO | None) -> TextIO:
    whole_lines = like is None or like.isatty()
    return io.TextIOWrapper(
        io.BufferedWriter(stream), encoding="utf-8", errors="backslashreplace", line_buffering=whole_lines
    )


def forget_output() -> None:
    """What is still to be written to standard output is dropped: it would fail again when the program ends."""
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    if isinstance(raw, _Stream):
        raw.forget()
