"""Reads files and directories below the root, whatever lies under their names.

* Nothing is followed: a link is never what is asked for, whatever it points to.
* Nothing blocks: a FIFO, a socket or a device is recognised without waiting for it.
* What is missing, or cannot exist under such a name, is missing (``FileNotFoundError``, None, []).
* ``OddEntry`` is about this one entry. Any other ``OSError`` is about the disk or the host.
* ``DirStamp`` tells whether a directory may have changed since it was listed. Every name that comes or goes moves the change
  time of its directory, and nobody can set that time. It moves in steps of up to ``GRAIN_NS``: right after a change a second
  one may hide behind the same time. So a listing is trusted later only if the directory had been quiet for longer than a
  step *before* the listing began.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable, Iterable, Sequence

import msgspec

from swarm.errors import OddEntry
from swarm.plain_text import one_line

_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG)
_REFUSED = (errno.EACCES, errno.EPERM)
_ODD = {
    errno.ELOOP: "is a symbolic link",
    errno.EISDIR: "is a directory",
    errno.ENXIO: "is no regular file",
    errno.ENODEV: "is no regular file",
}
_KINDS = {
    stat.S_IFLNK: "is a symbolic link",
    stat.S_IFDIR: "is a directory",
    stat.S_IFIFO: "is a FIFO",
    stat.S_IFSOCK: "is a socket",
    stat.S_IFCHR: "is a device",
    stat.S_IFBLK: "is a device",
}
_WARY = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
FACCESSAT2 = os.access("/", os.F_OK, follow_symlinks=False)
"""Filters of system calls that are older than this call forbid it: then it would answer that nothing is ever there."""
_BLOCK_BYTES = 1 << 16


def status_of(path: str) -> os.stat_result | None:
    """Status of the entry itself, never of a link's target; None if it is missing or cannot be reached."""
    try:
        return os.lstat(path)
    except OSError as exc:
        if exc.errno in (*_ABSENT, *_REFUSED, errno.ELOOP):
            return None
        raise


def folder_status(path: str) -> os.stat_result | None:
    """Status of a directory; None if it is missing or something else."""
    status = status_of(path)
    return status if status is not None and stat.S_ISDIR(status.st_mode) else None


def is_file(path: str) -> bool:
    """Whether a regular file lies there. One ``access`` where nothing does."""
    if FACCESSAT2 and not os.access(path, os.F_OK, follow_symlinks=False):
        return False
    status = status_of(path)
    return status is not None and stat.S_ISREG(status.st_mode)


def first_file(paths: Sequence[str]) -> int | None:
    """The place of the first of these paths at which a regular file lies."""
    return next((place for place, path in enumerate(paths) if is_file(path)), None)


def list_names(folder: str) -> list[str]:
    """Names in a directory; [] if there is none. Raises ``OSError`` for one that may not be read."""
    if folder_status(folder) is None:
        return []
    try:
        return os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []


def list_inside(folder: str) -> list[str]:
    """The same of a directory inside one of ours: one that may not be read is odd like any other, and shows none."""
    try:
        return list_names(folder)
    except PermissionError:
        return []


def is_text(name: str) -> bool:
    """Whether a name is UTF-8: others can be no model's, task's or worker's."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def open_file(path: str, flags: int = os.O_RDONLY, mode: int = 0o600) -> int:
    """Open a regular file, or with ``O_CREAT`` make one. Never follows a link and never blocks.

    Raises ``FileNotFoundError``, ``OddEntry``, or ``OSError`` for what is no fault of this entry.
    """
    return _opened(path, flags, mode)[0]


def _opened(path: str, flags: int, mode: int) -> tuple[int, os.stat_result]:
    try:
        fd = os.open(path, flags | _WARY, mode)
    except OSError as exc:
        raise _meaning(exc, path, making=bool(flags & os.O_CREAT)) from exc
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise OddEntry(path, kind_words(status))
    except BaseException:
        os.close(fd)
        raise
    return fd, status


def _meaning(fault: OSError, path: str, *, making: bool) -> Exception:
    if fault.errno in _ABSENT and not (making and fault.errno == errno.ENAMETOOLONG):
        return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
    if fault.errno in _ODD:
        return OddEntry(path, odd_words(path) or _ODD[fault.errno])
    if fault.errno in _REFUSED and status_of(path) is not None:
        return OddEntry(path, f"may not be opened: {fault.strerror}")
    return fault


def odd_words(path: str) -> str:
    """What lies there instead of a regular file; empty if it is one, or missing."""
    status = status_of(path)
    return "" if status is None or stat.S_ISREG(status.st_mode) else kind_words(status)


def kind_words(status: os.stat_result) -> str:
    """To follow a name: ``is a FIFO``."""
    return _KINDS.get(stat.S_IFMT(status.st_mode), "is a file")


def read_file(path: str, limit: int) -> bytes:
    """The content of a regular file of at most ``limit`` bytes. Raises as ``open_file``; ``OddEntry`` for a larger one."""
    fd, status = _opened(path, os.O_RDONLY, 0)
    try:
        size = status.st_size
        if size > limit:
            raise OddEntry(path, f"has {size} bytes; {limit} are allowed")
        data = os.pread(fd, size + 1, 0) if size else b""
        if 0 < len(data) == size:
            return data
        chunks = [data]  # it grew, or the kernel gives it in pieces
        os.lseek(fd, len(data), os.SEEK_SET)
        while chunk := os.read(fd, _BLOCK_BYTES):
            chunks.append(chunk)
        return b"".join(chunks)
    finally:
        os.close(fd)


def plain_name(name: str) -> str:
    """A name with ``_`` for each control character and byte that is not UTF-8."""
    return "".join(char if one_line(char) == char else "_" for char in name)


GRAIN_NS = 40_000_000
"""Directory times move in steps (measured: up to 20 ms); a change younger than twice that may hide another."""
_AGAIN_S = 0.0005
"""Asked again sooner than this it answers as before: nobody acts on a change so quickly, a process takes longer to wake."""


class DirStamp(msgspec.Struct, frozen=True, array_like=True):
    """A directory as it was right before it was listed."""

    inode: int
    changed_ns: int
    quiet_ns: int
    """For how long nothing had changed; below zero where the clock was set back."""

    @property
    def settled(self) -> bool:
        """Whether every later change shows in the time of change."""
        return self.quiet_ns > GRAIN_NS

    def unchanged_since(self, earlier: DirStamp | None) -> bool:
        """Whether a listing made behind the ``earlier`` stamp is still true; never without one."""
        return (
            earlier is not None and earlier.settled and earlier.changed_ns == self.changed_ns and earlier.inode == self.inode
        )


def stamp_of(path: str) -> DirStamp | None:
    """Take it before the listing; None if there is no such directory. Raises ``OSError``."""
    status = folder_status(path)
    return None if status is None else stamp_from(status)


def stamp_from(status: os.stat_result) -> DirStamp:
    """The stamp of a directory whose status was read just now."""
    changed_ns = change_time(status)
    return DirStamp(status.st_ino, changed_ns, time.time_ns() - changed_ns)


def change_time(status: os.stat_result) -> int:
    """Nanoseconds since the epoch."""
    return status.st_ctime_ns


class Occupied:
    """Whether a directory holds anything. One ``stat`` while it does not change, and at most one each half millisecond."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._seen: DirStamp | None = None
        self._answer = False
        self._asked_s = 0.0

    def any(self) -> bool:
        """Whether anything lies in it, or did half a millisecond ago; False when it is not there.

        True where that cannot be read: whoever then looks for what lies there gets the error, and nothing is passed over.
        """
        now_s = time.monotonic()
        if now_s - self._asked_s >= _AGAIN_S:
            self._asked_s = now_s
            try:
                self._answer = self._look()
            except OSError:
                self._answer, self._seen = True, None
        return self._answer

    def _look(self) -> bool:
        now = stamp_of(self._folder)
        if now is None:
            return False
        if now.unchanged_since(self._seen):
            return self._answer
        self._seen = None
        try:
            with os.scandir(self._folder) as entries:
                found = next(entries, None) is not None
        except FileNotFoundError:
            return False
        self._seen = now
        return found


class Folder(DirStamp, frozen=True, array_like=True):
    """One directory as it was when it was counted."""

    files: int
    oldest_s: float | None = None
    """Since when the first of its tasks waits, in seconds since the epoch; None where nobody asked, or nothing waits."""


Known = dict[str, Folder]
Counter = Callable[[str], tuple[int, float | None]]
"""Given a directory's path: how many files of the kind that is counted, and since when the oldest is there."""


class Folders:
    """The directories inside one directory. For one thread at a time."""

    def __init__(self, path: str, counter: Counter, known: Known | None = None) -> None:
        """``known``: from whoever looked earlier. Nothing in it is believed unless its directory is as it was."""
        self._path = path
        self._counter = counter
        self.known = known or {}

    def look(self, names: Iterable[str]) -> Known:
        """These directories now, without missing ones. What is not asked for is forgotten."""
        self.known = {name: folder for name in names if (folder := self._folder(name)) is not None and is_text(name)}
        return self.known

    def _folder(self, name: str) -> Folder | None:
        path = f"{self._path}/{name}"
        now = stamp_of(path)
        if now is None:
            return None
        known = self.known.get(name)
        if now.unchanged_since(known):
            return known
        return Folder(now.inode, now.changed_ns, now.quiet_ns, *self._counter(path))
