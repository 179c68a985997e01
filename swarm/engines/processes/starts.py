"""How starts of one server share and exclude one another.

* All requests that wait for a start share one, on one thread. Once none of them waits any more it is stopped, since a load
  may wait behind it.
* A load that waits for another start hears its own cancel and its own limit.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

from swarm.core.faults import CancelToken, TaskFault, fault_of_stop

T = TypeVar("T")
LOOK_EVERY_S = 0.1


class SharedStart(Generic[T]):
    """For one event loop."""

    def __init__(self) -> None:
        self._task: asyncio.Task[T] | None = None
        self._stopped = threading.Event()
        self._waiting = 0

    async def wait(self, start: Callable[[threading.Event], T]) -> T:
        """What the start under way brings, or else this one. It ends soon once the event is set: nobody waits for it."""
        if self._task is None or self._task.done() or self._stopped.is_set():
            self._stopped, self._waiting = threading.Event(), 0
            self._task = asyncio.create_task(asyncio.to_thread(start, self._stopped))
            self._task.add_done_callback(lambda one: one.cancelled() or one.exception())  # all may have hung up
        stopped = self._stopped
        self._waiting += 1
        try:
            return await asyncio.shield(self._task)
        finally:
            if stopped is self._stopped:  # else another has begun
                self._waiting -= 1
                if not self._waiting:
                    stopped.set()


@contextmanager
def held_alone(lock: threading.Lock, timeout_s: float, cancel: CancelToken | None = None) -> Iterator[None]:
    """Hold the lock that starts and ends hold. Raises ``TaskFault``: ``timeout``, or why it was cancelled."""
    end_s = time.monotonic() + timeout_s
    while not lock.acquire(timeout=LOOK_EVERY_S):
        if cancel is not None and cancel.reason is not None:
            raise fault_of_stop(cancel.reason)
        if time.monotonic() >= end_s:
            raise TaskFault("infra", "timeout", f"another load did not end within {timeout_s:g} s")
    try:
        yield
    finally:
        lock.release()
