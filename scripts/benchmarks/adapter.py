"""What the benchmark asks of a queue.

An adapter's object is made in the parent; ``open`` is called in each process after the fork. ``claim`` takes one task
exclusively, parsed, and never blocks; ``ack`` records it as done. ``fill`` loads a backlog and is never timed.
"""

from __future__ import annotations

import importlib
import shutil
import time
from collections.abc import Iterable
from typing import Any

mono = time.monotonic


class Adapter:
    name = ""
    sync = "none"
    """The floor to hold it against: ``none`` or ``fsync``."""
    durability = "none"
    needs = ""
    """Module that must be importable, or ``program:NAME``."""
    waits = ""
    poll_s = 0.1
    turns = False
    """Whether the drains use ``turn`` rather than one call after the other."""
    many = True
    """Whether several processes may share it."""

    def __init__(self, path: str) -> None:
        self.path = path

    @classmethod
    def missing(cls) -> str | None:
        """Why it cannot be measured here; None if it can."""
        kind, _, program = cls.needs.partition(":")
        if program:
            return None if shutil.which(program) else f"no {program} on the path"
        try:
            if kind:
                importlib.import_module(kind)
        except ImportError as exc:
            return str(exc)
        return None

    def waiting(self) -> str:
        """The folder where what waits lies, in the order in which it will be claimed."""
        return self.path

    def start(self) -> None: ...
    def stop(self) -> None: ...
    def open(self, consumer: int = 0) -> None: ...
    def begin(self) -> None: ...

    def put(self, task: dict[str, Any]) -> None:
        raise NotImplementedError

    def claim(self) -> tuple[str, Any] | None:
        raise NotImplementedError

    def ack(self, handle: Any) -> None: ...

    def turn(self, handle: Any) -> tuple[str, Any] | None:
        """Record one as done and take the next; queues that can share a commit between the two do."""
        self.ack(handle)
        return self.claim()

    def fill(self, tasks: Iterable[dict[str, Any]]) -> None:
        for task in tasks:
            self.put(task)

    def wait(self, timeout_s: float) -> tuple[str, Any] | None:
        end_s = mono() + timeout_s
        while mono() < end_s:
            found = self.claim()
            if found is not None:
                return found
            time.sleep(self.poll_s)
        return None

    def recover(self) -> str:
        return "not back"
