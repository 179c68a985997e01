"""The loop of a long-running process: ticks, waits, signals, the report of a crash, a root that was replaced.

* Crash-only: nothing is tidied up on disk after a crash; recovery under the freed process lock does it.
* Signal handlers only note the wish to stop and wake the loop; the loop acts.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Protocol

from swarm.errors import EXIT_USAGE

EXIT_CRASHED = 70
"""Exit status after an unexpected exception (EX_SOFTWARE); the supervisor restarts the process."""


class Actor(Protocol):
    """Something that runs in ticks."""

    @property
    def title(self) -> str:
        """How log lines call it: ``Worker worker-1``."""
        ...

    @property
    def finished(self) -> bool:
        """No further tick is wanted."""
        ...

    def step(self) -> float:
        """One tick; returns the seconds to wait before the next (0: at once)."""
        ...

    def close(self) -> None:
        """Log and publish an orderly end."""
        ...

    def abandon(self) -> None:
        """After a crash: end what runs in this process, change nothing on disk."""
        ...


def run_loop(
    actor: Actor,
    *,
    wait: Callable[[float], object],
    log: logging.Logger,
    lost: Callable[[], str] = lambda: "",
) -> int:
    """Run ticks until ``finished``; returns the exit status: 0, or ``EXIT_CRASHED`` after an unexpected exception.

    ``wait(seconds)`` returns early when there is something to do. ``lost`` is asked before each tick: why nothing may be
    read or written there any more, as when the queue root is another directory; then it ends with ``EXIT_USAGE``.
    """
    log.info("%s starting main loop", actor.title)
    try:
        while not actor.finished:
            if why := lost():
                log.error("%s ends: %s", actor.title, why)
                actor.abandon()
                return EXIT_USAGE
            pause_s = actor.step()
            if pause_s > 0 and not actor.finished:
                wait(pause_s)
    except Exception as error:
        what = f"{type(error).__name__}: {error}"
        log.exception("%s crashed in main loop: %s", actor.title, what)
        actor.abandon()
        return EXIT_CRASHED
    actor.close()
    return 0


Handler = Callable[[int, FrameType | None], object]


class StopWish:
    """How urgently the process was asked to stop: 0 not at all, 1 finish what runs, 2 or more stop now."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._asked = 0

    @property
    def urgency(self) -> int:
        """The number of requests so far."""
        return self._asked

    def ask(self) -> None:
        """Record one more request to stop."""
        self._asked += 1
        self._wake()


def install(wish: StopWish) -> None:
    """SIGTERM, SIGINT and a terminal that closes become wishes. For the main thread, once."""

    def handle(_number: int, _frame: FrameType | None) -> None:
        wish.ask()

    signal.signal(signal.SIGTERM, handle)
    signal.signal(signal.SIGINT, handle)
    on_hangup(handle)


@contextmanager
def handling(handle: Handler) -> Iterator[None]:
    """The same signals for the time of the block, for a command that waits in the foreground."""
    handlers = {signal.SIGINT: handle, signal.SIGTERM: handle}
    if not _outlives_the_terminal():
        handlers[signal.SIGHUP] = _once(handle)
    before = [(number, signal.signal(number, handler)) for number, handler in handlers.items()]
    try:
        yield
    finally:
        for number, handler in before:
            signal.signal(number, handler)


def on_hangup(handle: Handler) -> None:
    """Handle SIGHUP, unless we were started to outlive the terminal (``nohup``)."""
    if not _outlives_the_terminal():
        signal.signal(signal.SIGHUP, _once(handle))


def _once(handle: Handler) -> Handler:
    """A terminal that closes is one wish, though two signals tell of it: its shell's, and the kernel's after that."""
    heard = False

    def first(number: int, frame: FrameType | None) -> None:
        nonlocal heard
        if not heard:
            heard = True
            handle(number, frame)

    return first


def _outlives_the_terminal() -> bool:
    return signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


class RootGuard:
    """Notices that the root was swapped, mounted over, moved or removed: the path then leads to a tree never looked at.

    Holds the root open, so that its number is not given to another directory. Raises ``OSError`` when made.
    """

    def __init__(self, root: str, what: str = "the queue root") -> None:
        self._root = root
        self._what = what
        self._fd = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self._fd)

    def trouble(self) -> str:
        """What happened to it, in words; empty while it is where it was. Costs two calls."""
        try:
            now = os.stat(self._root)
        except (FileNotFoundError, NotADirectoryError):
            return f"{self._what} {self._root} is missing"
        except OSError:
            return ""  # a disk or a network in trouble, which tells so itself
        if os.path.samestat(now, os.fstat(self._fd)):
            return ""
        return f"another directory is in place of {self._what} {self._root}"


def root_watch(root: str) -> Callable[[], str]:
    """Tells whether another directory lies where the root was: empty, or what happened, which is also said where it is read.

    The log is no such place: its file went with the root.
    """
    guard = RootGuard(root)

    def trouble() -> str:
        why = guard.trouble()
        if why:
            print(f"error: {why}: ending, so that nothing is done in another tree", file=sys.stderr, flush=True)  # noqa: T201
        return why

    return trouble
