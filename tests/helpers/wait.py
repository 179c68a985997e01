"""Waiting on conditions with a deadline, and saying what was seen when it passes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from swarm.proc.identity import read_stat

T = TypeVar("T")


def wait_until(predicate: Callable[[], T], *, timeout_s: float = 60.0, what: str = "condition", poll_s: float = 0.01) -> T:
    """Return the first truthy answer of ``predicate``; fail with the last answer once ``timeout_s`` has passed."""
    deadline = time.monotonic() + timeout_s
    while True:
        answer = predicate()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {timeout_s} s; last seen: {answer!r}")
        time.sleep(poll_s)


def runs(pid: int) -> bool:
    """Whether there is a process of that number; a zombie is none."""
    stat = read_stat(pid)
    return stat is not None and stat.alive
