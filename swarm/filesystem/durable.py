"""Flushes files and directories, and lets threads share flushes (group commit).

* Many file systems cannot flush a directory (shared folders of virtual machines, network and FUSE file systems), and system
  call filters forbid some calls. What can be flushed only with its whole file system is flushed with it, by ``syncfs``.
* ``SharedFlush``: threads that ask while a flush is under way share the next one. Nobody returns before what it asked for is
  durable. A thread by itself does what it would do without this.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import threading
import time
import weakref
from collections.abc import Callable

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


TOGETHER_FROM = 2
"""From so many targets on one flush of the whole file system may cost less than one each; which it does is measured."""
_WEIGHT = 1 / 8
"""Of the newest duration in the averages."""
_FADE = 0.95
"""An expensive flush of everything is forgotten by so much each time it is passed over, so that it is tried again."""
SLOW_S = 0.05
"""A flush of the whole file system that took longer wrote out what others had written: a model being pulled, say."""
ALONE_FOR_S = 10.0
"""After that, each target is flushed by itself for so long, and for twice as long each time it is slow again …"""
ALONE_CAP_S = 640.0
"""… up to this."""
_FOR_EVER_S = float("inf")
Target = str | int
"""A directory by its path, or an open file by its descriptor."""


class _Wish:
    """One thread's request."""

    __slots__ = ("done", "failed", "targets", "woken")

    def __init__(self, targets: tuple[Target, ...], *, leads: bool) -> None:
        self.targets = targets
        self.done = False
        self.failed: OSError | None = None
        self.woken: threading.Lock | None = None
        if not leads:
            self.woken = threading.Lock()
            self.woken.acquire()


class SharedFlush:
    """Safe from any thread.

    ``everything`` flushes the whole file system of a descriptor, and raises ``OSError``. ``root`` is a directory of that
    file system, which stays and holds all targets; it need not be there yet.
    """

    def __init__(self, everything: Callable[[int], None], root: str) -> None:
        self._everything = everything
        self._root = root
        self._kept_fd: int | None = None
        self._alone_until_s = 0.0 if tells_errors() else _FOR_EVER_S
        self._alone_for_s = ALONE_FOR_S
        self._one_s = 0.001
        self._all_s = 0.0
        self._lock = threading.Lock()
        self._led = False
        self._waiting: list[_Wish] = []

    def flush(self, *targets: Target) -> None:
        """Make directories' names (paths) and open files (descriptors) durable. Raises ``OSError`` if any is not."""
        with self._lock:
            wish = _Wish(targets, leads=not self._led)
            self._waiting.append(wish)
            self._led = True
        if wish.woken is not None:
            wish.woken.acquire()
        if not wish.done:
            self._lead()
        if wish.failed is not None:
            raise wish.failed

    def _lead(self) -> None:
        """Flush for all who wait by now, wake them, and let one who came meanwhile lead the next."""
        with self._lock:
            batch, self._waiting = self._waiting, []
        try:
            self._flush(batch)
        finally:
            with self._lock:
                woken = [*batch, *self._waiting[:1]]
                self._led = bool(self._waiting)
            for wish in batch:
                if not wish.done:  # the flush itself came to grief: nobody may take it for durable
                    wish.failed, wish.done = OSError(errno.EIO, "the flush was cut off"), True
            for wish in woken:
                if wish.woken is not None:
                    wish.woken.release()

    def _flush(self, batch: list[_Wish]) -> None:
        if len(batch) == 1 and len(batch[0].targets) == 1:
            self._flush_one(batch[0])
            return
        targets = {target for wish in batch for target in wish.targets}
        began_s = time.monotonic()
        together = len(targets) >= TOGETHER_FROM and began_s >= self._alone_until_s
        if together and self._kept_fd is not None and self._all_s <= len(targets) * self._one_s:
            failures = dict.fromkeys(targets, self._together(self._kept_fd, began_s))
        else:
            failures = {}
        if not failures or self._alone_until_s == _FOR_EVER_S:
            failures = {target: _one(target) for target in targets}
            self._one_s += _WEIGHT * ((time.monotonic() - began_s) / len(targets) - self._one_s)
            if together and self._kept_fd is None:
                self._keep()
            elif together:
                self._all_s *= _FADE
        for wish in batch:
            failed = next((f for target in wish.targets if (f := failures[target]) is not None), None)
            wish.failed = None if failed is None else OSError(failed.errno, failed.strerror, failed.filename)
            wish.done = True

    def _flush_one(self, wish: _Wish) -> None:
        """What ``_flush`` does with a single target, in fewer steps."""
        began_s = time.monotonic()
        wish.failed, wish.done = _one(wish.targets[0]), True
        self._one_s += _WEIGHT * (time.monotonic() - began_s - self._one_s)

    def _keep(self) -> None:
        """The kernel tells a descriptor of the write errors since it was opened; so one is kept from here on.

        It is none of a target: that would keep a removed file's blocks, and the disk from being made read-only.
        """
        try:
            fd = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:  # the next batch tries again
            return
        self._kept_fd = fd
        weakref.finalize(self, os.close, fd)

    def _together(self, fd: int, began_s: float) -> OSError | None:
        try:
            self._everything(fd)
        except OSError as exc:
            if exc.errno in NOT_THERE:  # here it cannot be done at all
                self._alone_until_s = _FOR_EVER_S
            return exc
        ended_s = time.monotonic()
        self._all_s += _WEIGHT * (ended_s - began_s - self._all_s)
        if ended_s - began_s <= SLOW_S:
            self._alone_for_s = ALONE_FOR_S
        else:
            self._alone_until_s = ended_s + self._alone_for_s
            self._alone_for_s = min(2 * self._alone_for_s, ALONE_CAP_S)
        return None


def _one(target: Target) -> OSError | None:
    try:
        if isinstance(target, int):
            sync_fd(target)
        else:
            sync_folder(target)
    except OSError as exc:
        return exc
    return None
