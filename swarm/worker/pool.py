"""Kept threads for attempts and probes: starting a thread per task would cost more than claiming it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue

Job = Callable[[], None]


class ThreadPool:
    """At most ``size`` daemon threads, started when first needed and kept.

    Daemons, unlike those of ``concurrent.futures``: a thread stuck in a dead server must never keep the process alive.
    """

    def __init__(self, size: int, name: str) -> None:
        self._size = size
        self._name = name
        self._jobs: SimpleQueue[Job] = SimpleQueue()
        self._idle = threading.Semaphore(0)
        self._started = 0

    def submit(self, job: Job) -> None:
        """Run ``job`` soon, in a thread of its own if one is free. For one caller's thread; ``job`` must not raise."""
        self._jobs.put(job)
        if self._idle.acquire(blocking=False) or self._started >= self._size:
            return
        self._started += 1
        threading.Thread(target=self._work, name=f"{self._name}-{self._started}", daemon=True).start()

    def _work(self) -> None:
        while True:
            self._jobs.get()()
            self._idle.release()
