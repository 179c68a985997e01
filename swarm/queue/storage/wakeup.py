"""The wake-up file (``.bell``): touched when work is added, watched by idle loops.

A hint only, watched through inotify. Where that is missing (other hosts on a shared file system), polling finds the work a
period later.
"""

from __future__ import annotations

import os
import select
from contextlib import suppress

from swarm.errors import OddEntry
from swarm.filesystem.entries import open_file
from swarm.queue.layout import Layout
from swarm.queue.storage import inotify

_IN_ATTRIB = 0x004
_IN_DONT_FOLLOW = 0x2000000
_IN_CLOSE_WRITE = 0x008
_IN_MOVED_TO = 0x080


def wake(layout: Layout) -> None:
    """Wake all who wait on this root. Where the file cannot be touched (full or read-only disk) they poll a little later."""
    try:
        os.utime(layout.wakeup, follow_symlinks=False)
    except FileNotFoundError:
        with suppress(OSError, OddEntry):
            os.close(open_file(layout.wakeup, os.O_WRONLY | os.O_CREAT))
    except OSError:
        return  # polling finds the work a little later


class WakeUp:
    """One waiter per object; ``wake`` and ``wake_self`` may be called from any thread."""

    def __init__(self, layout: Layout, *, drop_ins: bool = False) -> None:
        self._layout = layout
        self._poll = select.poll()
        self._self_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._poll.register(self._self_fd, select.POLLIN)
        self._notify_fd = _watch(layout, drop_ins=drop_ins)
        if self._notify_fd is not None:
            self._poll.register(self._notify_fd, select.POLLIN)

    @property
    def fd(self) -> int | None:
        """The inotify descriptor, for loops that wait on other things too; None without inotify."""
        return self._notify_fd

    @property
    def self_fd(self) -> int:
        """The descriptor that ``wake_self`` makes readable."""
        return self._self_fd

    def wake(self) -> None:
        """Wake all who wait on this root."""
        wake(self._layout)

    def wake_self(self) -> None:
        """Make this object's own ``wait`` return at once. Async-signal-safe enough for a Python signal handler."""
        os.eventfd_write(self._self_fd, 1)

    def wait(self, timeout_s: float) -> bool:
        """Wait for a wake-up; False after ``timeout_s``."""
        ready = self._poll.poll(max(0.0, timeout_s) * 1000)
        for fd, _ in ready:
            _empty(fd)
        return bool(ready)

    def drain(self) -> None:
        """Forget the wake-ups received so far."""
        for fd in (self._self_fd, self._notify_fd):
            if fd is not None:
                _empty(fd)

    def close(self) -> None:
        """Close the descriptors."""
        for fd in (self._self_fd, self._notify_fd):
            if fd is not None:
                os.close(fd)


def _empty(fd: int) -> None:
    try:
        os.read(fd, 65536)
    except BlockingIOError:
        return


def _watch(layout: Layout, *, drop_ins: bool) -> int | None:
    """An inotify descriptor on that file, and on files put into ``pending`` itself; None where there is no inotify."""
    wake(layout)
    fd = inotify.opened()
    if fd is None:
        return None
    watched = inotify.add(fd, layout.wakeup, _IN_ATTRIB | _IN_DONT_FOLLOW)
    if drop_ins and watched is not None:
        watched = inotify.add(fd, layout.pending, _IN_MOVED_TO | _IN_CLOSE_WRITE)
    if watched is None:
        os.close(fd)
        return None
    return fd
