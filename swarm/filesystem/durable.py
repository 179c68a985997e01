"""Flushes files and directories, even where a file system cannot flush one by itself.

Many cannot flush a directory (shared folders of virtual machines, network and FUSE file systems), and system call filters
forbid some calls. What can be flushed only with its whole file system is flushed with it, by ``syncfs``.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re

NOT_THERE = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM, errno.ENOTTY})
"""What a call answers that the file system does not have, or that a filter of system calls forbids."""
libc = ctypes.CDLL(None, use_errno=True)


class CannotFlush(OSError):
    """The file system can flush neither this nor all of itself: no write to it can be made to survive a power cut."""

    def __init__(self, why: OSError) -> None:
        super().__init__(errno.EOPNOTSUPP, f"it can neither be flushed by itself nor with its file system ({why.strerror})")


def sync_fd(fd: int) -> None:
    """Make what was written to an open file, or the names in an open directory, durable. Raises ``OSError``.

    ``CannotFlush`` where there is no way.
    """
    try:
        os.fsync(fd)
    except OSError as refused:
        if refused.errno not in NOT_THERE:
            raise
        try:
            sync_file_system(fd)
        except OSError as exc:
            raise (CannotFlush(refused) if exc.errno in NOT_THERE else exc) from exc


def sync_folder(path: str) -> None:
    """Make the names in a directory durable. Raises as ``sync_fd``."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        sync_fd(fd)
    finally:
        os.close(fd)


def sync_file_system(fd: int) -> None:
    """Make everything written to the file system of ``fd`` durable with one call. Raises ``OSError``."""
    if libc.syncfs(fd) != 0:
        failed = ctypes.get_errno()
        raise OSError(failed, os.strerror(failed))


def sync_tree(path: str) -> None:
    """Make everything in a directory durable: with its file system, or where that cannot be, file by file.

    Raises ``OSError``.
    """
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        sync_file_system(fd)
    except OSError as exc:
        if exc.errno not in NOT_THERE:
            raise
    else:
        return
    finally:
        os.close(fd)
    for folder, _, names in os.walk(path, onerror=_raise):
        for name in names:
            _sync_file(os.path.join(folder, name))
        sync_folder(folder)


def _sync_file(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        sync_fd(fd)
    finally:
        os.close(fd)


def _raise(problem: OSError) -> None:
    raise problem


def place_of(path: str) -> str:
    """The file system that a path lies on, in words: ``ext4 at /home``."""
    try:
        real = os.path.realpath(path)
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
            mounts = [line.split(" ") for line in file]
        # Of several on the same directory the last hides the others.
        found = max(((_unescaped(m[4]), n) for n, m in enumerate(mounts) if _holds(_unescaped(m[4]), real)), key=_depth)
        words = mounts[found[1]]
        kind = words[words.index("-") + 1]
    except (OSError, ValueError, IndexError):
        return f"the file system of {path}"
    return f"{kind} at {found[0]}"


def _holds(mount: str, path: str) -> bool:
    return path == mount or path.startswith(f"{mount.rstrip('/')}/")


def _depth(found: tuple[str, int]) -> tuple[int, int]:
    return len(found[0]), found[1]


def _unescaped(text: str) -> str:
    """Blanks and the like stand as three octal digits there."""
    return re.sub(r"\\([0-7]{3})", lambda digits: chr(int(digits[1], 8)), text)


def tells_errors() -> bool:
    """Whether ``syncfs`` does: before Linux 5.8 it kept write errors to itself."""
    try:
        release = tuple(int(part) for part in os.uname().release.split(".")[:2])
    except ValueError:
        return False
    return os.uname().sysname == "Linux" and release >= (5, 8)
