"""Signals of a long-running process: handlers only note the wish and wake the loop, the loop acts."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

Handler = Callable[[int, FrameType | None], object]


class StopWish:
    """How urgently somebody asked the process to stop: 0 not at all, 1 finish what runs, 2 or more stop now."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._asked = 0

    @property
    def urgency(self) -> int:
        """Times it was asked."""
        return self._asked

    def ask(self) -> None:
        """One more wish to stop."""
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
    numbers = [signal.SIGINT, signal.SIGTERM]
    if not _outlives_the_terminal():
        numbers.append(signal.SIGHUP)
    before = [(number, signal.signal(number, handle)) for number in numbers]
    try:
        yield
    finally:
        for number, handler in before:
            signal.signal(number, handler)


def on_hangup(handle: Handler) -> None:
    """Handle SIGHUP, unless we were started to outlive the terminal (``nohup``)."""
    if not _outlives_the_terminal():
        signal.signal(signal.SIGHUP, handle)


def _outlives_the_terminal() -> bool:
    return signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
