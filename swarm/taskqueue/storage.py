"""The file calls that change the queue, with their flushes; all mutations go through here.

``durability = "full"`` flushes what a caller is told is done (file, then the directory that names it) before returning;
``"fast"`` leaves that to the kernel: everything still survives ``kill -9``, but not a power cut. A rename is durable on ext4
and xfs once either of its directories is flushed, so only the one that gains the name is; a journal-less file system
may then show the task in both places after a power cut, which the finishing move (no overwrite) and recovery settle.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import sys
import threading
from collections.abc import Sequence
from contextlib import ContextDecorator, suppress

from swarm.disk import NOT_THERE, sync_fd, sync_file_system, sync_tree
from swarm.errors import StorageFault
from swarm.taskqueue.flush import SharedFlush

FILE_MODE = 0o600
DIR_MODE = 0o700
_RENAME_NOREPLACE = 1
_AT_FDCWD = -100
_LACKS = "the file system, or a filter of system calls (a container's), does not have this: `swarm doctor` says what"
_NO_LINK = (errno.EPERM, errno.EISDIR, errno.EACCES)
_HINTS = {
    errno.ENOSPC: "free some space; work resumes by itself",
    errno.EDQUOT: "the user's quota is used up; work resumes by itself when there is room",
    errno.EROFS: "the file system is read-only: see `dmesg`, remount it; work resumes by itself",
    errno.EIO: "the disk reports errors: see `dmesg`",
    errno.EMFILE: "too many open files in this process: raise `ulimit -n`",
    errno.ENFILE: "too many open files on this machine",
    errno.ENOMEM: "the kernel is out of memory",
    errno.EACCES: "the queue root belongs to another user",
    errno.EPERM: "it belongs to another user, or a filter of system calls (a container's) forbids it: see `swarm doctor`",
    **dict.fromkeys((errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL), _LACKS),
    **dict.fromkeys((errno.ESTALE, errno.ENOTCONN), "the file system has gone away: mount it again; work resumes by itself"),
}
_PATHS = (sys.getfilesystemencoding(), sys.getfilesystemencodeerrors())
_READING = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_libc = ctypes.CDLL(None, use_errno=True)
_libc.renameat2.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)


class storage_faults(ContextDecorator):  # noqa: N801  # used as a word of the language, thousands of times a second
    """Turn faults of disk and host into ``StorageFault``; ENOENT, EEXIST and the like pass, they are answers."""

    __slots__ = ("_what",)

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None:
        return

    def __exit__(self, kind: object, fault: BaseException | None, trace: object) -> None:
        if isinstance(fault, OSError) and fault.errno in _HINTS:
            raise StorageFault(f"{self._what}: {fault.strerror}", hint=_HINTS[fault.errno]) from fault


def write_all(fd: int, data: bytes, offset: int) -> None:
    """Write all of ``data`` at ``offset``, however short the kernel's writes are."""
    written = os.pwrite(fd, data, offset)
    if written == len(data):
        return
    view = memoryview(data)[written:]
    while view:
        offset += written
        written = os.pwrite(fd, view, offset)
        view = view[written:]


def read_regular(path: str, limit: int) -> bytes:
    """The content of a regular file, without following links or hanging on a FIFO.

    Raises ``FileNotFoundError``, ``ValueError`` for anything that is no regular file of at most ``limit`` bytes.
    """
    try:
        fd = os.open(path, _READING)
    except OSError as exc:
        if exc.errno == errno.ELOOP:
            raise ValueError("is a symbolic link") from exc
        if exc.errno in (errno.ENXIO, errno.ENODEV):
            raise ValueError("is no regular file") from exc
        raise
    try:
        return _read_at_once(fd, limit) or _read_with_care(fd, limit)
    finally:
        os.close(fd)


def _read_at_once(fd: int, limit: int) -> bytes | None:
    """The usual case in two calls, which only a file answers like that; None if it is another."""
    try:
        size = os.lseek(fd, 0, os.SEEK_END)
        if 0 < size <= limit:
            data = os.pread(fd, size + 1, 0)
            if len(data) == size:
                return data
    except OSError:  # a FIFO, a directory; or the disk, which says it again
        return None
    return None


def _read_with_care(fd: int, limit: int) -> bytes:
    status = os.fstat(fd)
    if (status.st_mode & 0o170000) != 0o100000:
        raise ValueError("is no regular file")
    if status.st_size > limit:
        raise ValueError(f"has {status.st_size} bytes; {limit} are allowed")
    os.lseek(fd, 0, os.SEEK_SET)
    chunks = []  # it grew, or the kernel gives it in pieces
    while chunk := os.read(fd, 65536):
        chunks.append(chunk)
    return b"".join(chunks)


def _renameat2(source: str, target: str) -> int:
    """``renameat2(…, RENAME_NOREPLACE)``: 0, or the errno."""
    old, new = source.encode(*_PATHS), target.encode(*_PATHS)
    return ctypes.get_errno() if _libc.renameat2(_AT_FDCWD, old, _AT_FDCWD, new, _RENAME_NOREPLACE) else 0


def _move_by_link(source: str, target: str) -> None:
    """The same in two steps, where the kernel or the file system cannot rename without overwriting.

    In between the file has both names; a power cut leaves them, and the finishing move and recovery settle it.
    """
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError as exc:
        if exc.errno not in _NO_LINK or _own_file(source):
            raise
        _move_odd(source, target)
        return
    try:
        os.unlink(source)
    except OSError:  # somebody else moved it on in between, or it may not be removed: then it is not moved
        with suppress(FileNotFoundError):
            os.unlink(target)
        raise


def _own_file(path: str) -> bool:
    status = os.lstat(path)
    return stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid()


def _move_odd(source: str, target: str) -> None:
    """What no link can be made to: a directory, a device, another user's file. Never a task, so that nobody races for it."""
    if os.path.lexists(target):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), source, None, target)
    os.rename(source, target)


class Storage:
    """File calls under one durability, all below one root."""

    def __init__(self, durability: str, root: str) -> None:
        self.full = durability == "full"
        self._flush = SharedFlush(sync_file_system, root)

    def move(self, source: str, target: str, *, flush: bool = True) -> None:
        """Rename without overwriting, and make it durable. Raises ``FileNotFoundError``, ``FileExistsError``."""
        failed = _renameat2(source, target)
        if failed in NOT_THERE:
            _move_by_link(source, target)
        elif failed:
            raise OSError(failed, os.strerror(failed), source, None, target)
        if flush and self.full:
            self.flush_dir(os.path.dirname(target))

    def claim_move(self, source: str, target: str) -> None:
        """The plain rename of a claim, not flushed yet: the target name carries worker and attempt and cannot be taken."""
        os.rename(source, target)

    def write_new(self, path: str, data: bytes, *, flush: bool = True) -> None:
        """Create a file that must not exist, with its content; its directory is not flushed."""
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, FILE_MODE)
        try:
            write_all(fd, data, 0)
            if flush and self.full:
                self._flush.flush(fd)
        finally:
            os.close(fd)

    def replace(self, path: str, data: bytes, *, durable: bool) -> None:
        """Replace a whole file atomically. ``durable`` False skips the flush even under full durability."""
        folder, name = os.path.split(path)
        beside = f"{folder}/.{name}.{threading.get_ident()}.{os.getpid()}.new"  # threads may replace the same file at once
        fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, FILE_MODE)
        try:
            try:
                write_all(fd, data, 0)
                if durable and self.full:
                    sync_fd(fd)
            finally:
                os.close(fd)
            os.rename(beside, path)
        except OSError:
            with suppress(OSError):  # what cannot be removed now is cleared at the brain's next start
                os.unlink(beside)
            raise
        if durable:
            self.flush_dir(folder)

    def make_dir(self, path: str) -> None:
        """Make a directory with its parents if it is missing, durably; many may do so at once."""
        try:
            os.mkdir(path, DIR_MODE)
        except FileExistsError:
            return
        except FileNotFoundError:
            self.make_dir(os.path.dirname(path))
            self.make_dir(path)
            return
        self.flush_dir(os.path.dirname(path))

    def flush_files(self, fds: Sequence[int]) -> None:
        """Make what was written to open files durable, all with as few flushes as it takes (full durability only)."""
        if self.full and fds:
            self._flush.flush(*fds)

    def flush_name(self, folder: str, fd: int) -> None:
        """Make the first name of an open file durable (full durability only).

        The directory holds the name, the file how many names it has: without a journal, a disk flushes each by itself.
        """
        if self.full:
            self._flush.flush(folder, fd)

    def flush_dir(self, *paths: str) -> None:
        """Make the names in directories durable, all with as few flushes as it takes (full durability only)."""
        if self.full and paths:
            self._flush.flush(*paths)

    def flush_all(self, path: str) -> None:
        """Make everything in a directory durable, with one call where there is one (full durability only)."""
        if self.full:
            sync_tree(path)
