"""Group commit: threads that ask for a flush while one is under way share the next one.

Nobody returns before what it asked for is durable. A thread by itself does what it would do without this.
"""

from __future__ import annotations

import errno
import os
import threading
import time
import weakref
from collections.abc import Callable

from swarm.filesystem.durable import NOT_THERE, sync_fd, sync_folder, tells_errors

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
