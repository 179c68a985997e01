"""How fast tokens come: requests that work together share one total rate, which depends on how many they are.

Nothing polls: when a request comes or goes, or the rate drifts, what all have got so far is added up, and one timer is
set for the next moment at which somebody has reached a goal.
"""

from __future__ import annotations

import asyncio
import functools
import heapq
import itertools
import math
from collections.abc import Callable, Mapping
from typing import Final

import msgspec

NAMED: Final[Mapping[str, str]] = {
    "llama-7b": "1:41.6 2:50.9 4:74.4 8:139 16:242 32:465",
    "vllm-30b": "1:116 8:459 32:1216",
    "ollama-30b": "1:108 8:151 32:253",
    "cpu-7b": "1:10.6 2:12.1 4:12.7",
    "flat": "1:40 256:40",
}
"""Total tokens/s by requests at once: measured ones (llama.cpp's batched-bench, vLLM and Ollama on 2 L40S, a CPU)."""


class Curve(msgspec.Struct, frozen=True):
    """Total tokens/s by requests at once: points in ascending order, straight lines between them, level after the last."""

    points: tuple[tuple[int, float], ...]

    def rate(self, running: int) -> float:
        """Total tokens/s of so many requests; below the first point in proportion."""
        (first, low), (last, high) = self.points[0], self.points[-1]
        if running <= first:
            return low * running / first
        if running >= last:
            return high
        for (a, one), (b, other) in itertools.pairwise(self.points):
            if running <= b:
                return one + (other - one) * (running - a) / (b - a)
        raise AssertionError(running)


@functools.lru_cache(16)
def curve_of(specs: tuple[str, ...]) -> Curve | None:
    """A curve from ``n:tokens_per_s`` for each point, or from one name; None for none. Raises ``ValueError``."""
    if not specs:
        return None
    if len(specs) == 1 and specs[0] in NAMED:
        specs = tuple(NAMED[specs[0]].split())
    points = tuple(sorted((int(n), rate) for n, rate in map(_pair, specs)))
    if any(n < 1 or rate <= 0 for n, rate in points) or len({n for n, _ in points}) < len(points):
        raise ValueError(f"curve {','.join(specs)}: write n:tokens_per_s with different n from 1, and rates above 0")
    return Curve(points)


@functools.lru_cache(16)
def drift_of(specs: tuple[str, ...]) -> tuple[tuple[float, float], ...]:
    """Moments in seconds, and the factor from each on, from ``seconds:factor``. Raises ``ValueError``."""
    drift = tuple(sorted(map(_pair, specs)))
    if any(moment < 0 or factor <= 0 for moment, factor in drift):
        raise ValueError(f"drift {','.join(specs)}: write seconds:factor, both above 0")
    return drift


def _pair(spec: str) -> tuple[float, float]:
    one, separator, other = spec.partition(":")
    try:
        if separator:
            return float(one), float(other)
    except ValueError:
        pass
    raise ValueError(f"{spec!r} is no pair of numbers a:b, and none of {', '.join(NAMED)}")


class Pace:
    """The requests that share one rate. ``rate(running)`` is the total, in tokens/s; ``changes`` when else it changes.

    A request joins, awaits ``reach`` of what it was told at joining plus its tokens, and leaves.
    """

    def __init__(self, rate: Callable[[int], float], changes: Callable[[], float] = lambda: math.inf) -> None:
        self._rate = rate
        self._changes = changes
        self._loop = asyncio.get_running_loop()
        self._running = 0
        self._each = 0.0
        """Tokens that a request has got which was there from the start."""
        self._since = self._loop.time()
        self._speed = 0.0
        """Tokens/s of each request."""
        self._goals: list[tuple[float, int, asyncio.Future[None]]] = []
        self._numbers = itertools.count()
        self._timer: asyncio.TimerHandle | None = None
        self._due = False

    def join(self) -> float:
        """One more request; what each has got so far."""
        self._advance()
        self._running += 1
        self._plan()
        return self._each

    def leave(self) -> None:
        """One request less."""
        self._advance()
        self._running -= 1
        self._plan()

    def reach(self, goal: float) -> asyncio.Future[None]:
        """Done once each has got so many tokens."""
        future: asyncio.Future[None] = self._loop.create_future()
        heapq.heappush(self._goals, (goal, next(self._numbers), future))
        self._plan()
        return future

    def _advance(self) -> None:
        now = self._loop.time()
        self._each += (now - self._since) * self._speed
        self._since = now

    def _plan(self) -> None:
        """Whatever else happens in this turn of the loop, the timer is set once, after it."""
        if not self._due:
            self._due = True
            self._loop.call_soon(self._set)

    def _set(self) -> None:
        self._due = False
        self._advance()
        self._speed = self._rate(self._running) / self._running if self._running else 0.0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._goals and (self._goals[0][2].done() or self._goals[0][0] <= self._each * (1 + 1e-12)):
            _, _, future = heapq.heappop(self._goals)
            if not future.done():
                future.set_result(None)
        if self._goals and self._speed > 0:
            when = self._since + (self._goals[0][0] - self._each) / self._speed
            self._timer = self._loop.call_at(min(when, self._changes()), self._set)
