"""One look for all who ask: what is slow to make is made once for everybody who asks within some time.

* Whoever asks while it is being made waits for that, so that ten clients never look ten times.
* It is made in a thread; one that fails is not kept, and each of those who waited for it gets the error.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from starlette.concurrency import run_in_threadpool

Value = TypeVar("Value")


@dataclass(frozen=True)
class Cached(Generic[Value]):
    """A value and when it was begun to be made."""

    value: Value
    made_s: float
    """On the monotonic clock."""
    cost_s: float
    """How long it took."""

    @property
    def age_s(self) -> float:
        """How old what it says may be."""
        return time.monotonic() - self.made_s


class Cache(Generic[Value]):
    """Of one event loop. ``make`` is called by one thread at a time."""

    def __init__(self, make: Callable[[], Value], fresh_s: float) -> None:
        self._make = make
        self._fresh_s = fresh_s
        self._last: Cached[Value] | None = None
        self._making: asyncio.Task[Cached[Value]] | None = None

    async def get(self, fresh_s: float | None = None) -> Cached[Value]:
        """One no older than ``fresh_s``, by default the cache's own. Raises what making raises."""
        limit_s = self._fresh_s if fresh_s is None else fresh_s
        if self._last is not None and self._last.age_s <= limit_s:
            return self._last
        if self._making is None:
            self._making = asyncio.create_task(self._made())
        return await asyncio.shield(self._making)  # who goes away takes it from nobody else

    async def _made(self) -> Cached[Value]:
        try:
            begun_s = time.monotonic()
            value = await run_in_threadpool(self._make)
            self._last = Cached(value, begun_s, time.monotonic() - begun_s)
            return self._last
        finally:
            self._making = None
