"""Throughput curves, and a card in virtual time that answers requests along one of them.

* A curve gives the total generated tokens/s by requests at once: measured ones (with their sources), and made-up shapes
  (flat, early and late knee, cliff of memory, peak).
* ``run`` is processor sharing: requests in flight share the curve's rate evenly, each with noise of its own. A policy says
  after each end how many may be in flight. Nothing waits; no clock is read.
"""

from __future__ import annotations

import functools
import heapq
import itertools
import math
import random
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

from swarm.core.policy import slot_tuning
from swarm.core.policy.slot_levels import LADDER
from swarm.core.policy.slot_state import Tuning

MOST = 256

MEASURED: dict[str, dict[int, float]] = {
    "llama.cpp 7B F16": {1: 41.6, 2: 50.9, 4: 74.4, 8: 139, 16: 242, 32: 465},  # llama.cpp examples/batched-bench
    "vLLM 30B-A3B FP8, 2x L40S": {1: 116, 8: 459, 32: 1216},  # tim-roethig/ai-platform, 2025-09
    "Ollama 30B-A3B Q8, 2x L40S": {1: 108, 8: 151, 32: 253},  # the same
    "llama.cpp 7B Q4 on a CPU": {1: 10.6, 2: 12.1, 4: 12.7},  # llama.cpp#3478
}


class Change(NamedTuple):
    """The card's rate is multiplied by ``factor`` once this share of all tokens is done."""

    after: float
    factor: float


CHANGES: tuple[Change | None, ...] = (None, Change(0.5, 0.5), Change(0.5, 2.0))


def curves() -> dict[str, dict[int, float]]:
    """All curves by name: points of requests at once -> tokens/s."""
    found = dict(MEASURED)
    found["knee at 1"] = {1: 40, MOST: 41}
    for knee in (2, 4, 8, 16, 24, 48):
        top = 40 * knee**0.85
        found[f"knee at {knee}"] = {1: 40, knee: top, knee * 4: top * 1.02, MOST: top}
    for knee in (4, 8, 16, 32):
        top = 60 * knee**0.8
        found[f"cliff at {knee}"] = {1: 60, knee: top, round(knee * 1.26): top * 0.35, MOST: top * 0.25}
    for knee in (3, 6, 12, 20):
        top = 50 * knee**0.7
        found[f"peak at {knee}"] = {1: 50, knee: top, knee * 2: top * 0.9, knee * 4: top * 0.75, MOST: top * 0.5}
    found["falls from the start"] = {1: 80, 2: 82, 4: 78, 8: 70, 16: 60, MOST: 40}
    found["nearly linear"] = {1: 20, MOST: 20 * MOST**0.95}
    return found


def rate_of(points: Mapping[int, float]) -> Callable[[int], float]:
    """Tokens/s at any number at once: linear in its logarithm between the points, flat beyond the last."""
    known = sorted(points)

    @functools.cache
    def rate(number: int) -> float:
        if number <= known[0]:
            return points[known[0]] * number / known[0]
        for low, high in itertools.pairwise(known):
            if number <= high:
                share = math.log(number / low) / math.log(high / low)
                return points[low] + (points[high] - points[low]) * share
        return points[known[-1]]

    return rate


def best_of(points: Mapping[int, float], limit: int) -> int:
    """The best fixed number of requests at once, among the tuner's levels."""
    rate = rate_of(points)
    return max((level for level in LADDER if level <= limit), key=rate)


class Policy(Protocol):
    """Who says how many may be in flight."""

    @property
    def slots(self) -> int:
        """So many from now on."""
        ...

    def ended(self, in_flight: float, tokens: int, *, began_s: float, now_s: float) -> None:
        """A request ended; ``in_flight`` ran on average during its life."""
        ...

    def due_s(self) -> float | None:
        """When it wants to be asked even though nothing has ended."""
        ...

    def due(self, now_s: float) -> None:
        """That time has come."""
        ...


class Fixed:
    """Always the same number."""

    def __init__(self, slots: int) -> None:
        self.slots = slots

    def ended(self, in_flight: float, tokens: int, *, began_s: float, now_s: float) -> None:
        """Changes nothing."""

    def due_s(self) -> float | None:
        """Never."""
        return None

    def due(self, now_s: float) -> None:
        """Never called."""


class Tuned:
    """The tuner's number; ``tokens`` is what a request has on average. ``moves``: each change, with its time in seconds."""

    def __init__(self, limit: int, tokens: float) -> None:
        self.tuning = slot_tuning.start(limit)
        self.moves: list[tuple[float, int]] = []
        self._tokens = tokens

    @property
    def slots(self) -> int:
        """What the tuning says now."""
        return self.tuning.slots

    def ended(self, in_flight: float, tokens: int, *, began_s: float, now_s: float) -> None:
        """A sample."""
        self._moved(
            slot_tuning.sampled(self.tuning, in_flight, tokens / (now_s - began_s), began_s=began_s, now_s=now_s), now_s
        )

    def due_s(self) -> float | None:
        """When a step up is given up."""
        return slot_tuning.overdue_s(self.tuning, self._tokens)

    def due(self, now_s: float) -> None:
        """It is."""
        self._moved(slot_tuning.overdue(self.tuning, now_s), now_s)

    def _moved(self, tuning: Tuning, now_s: float) -> None:
        if tuning.slots != self.tuning.slots:
            self.moves.append((now_s, tuning.slots))
        self.tuning = tuning


class _Request(NamedTuple):
    end: float
    """At this much work done per request (virtual)."""
    number: int
    tokens: int
    began_s: float
    sum_then: float
    """The integral of requests in flight over time, when it began."""


def lengths(number: int, seed: int, *, median: float = 245, spread: float = 0.5) -> list[int]:
    """Tokens per request: log-normal."""
    rng = random.Random(seed)
    return [int(rng.lognormvariate(math.log(median), spread)) + 10 for _ in range(number)]


def run(
    points: Mapping[int, float],
    tokens: Sequence[int],
    policy: Policy,
    *,
    noise: float = 0.1,
    change: Change | None = None,
    extra_s: float = 0.0,
    seed: int = 0,
) -> float:
    """Seconds until all requests have ended. ``noise``: standard deviation of a request's own speed (log-normal).

    ``extra_s``: added to each request's time in flight, as reading a prompt would.
    """
    rng = random.Random(seed)
    curve, total = rate_of(points), sum(tokens)
    now_s = work = flight_sum = 0.0
    done = begun = 0
    flying: list[_Request] = []

    def pass_time(seconds: float, per_s: float) -> None:
        nonlocal now_s, work, flight_sum
        now_s, work, flight_sum = now_s + seconds, work + seconds * per_s, flight_sum + seconds * len(flying)

    while flying or begun < len(tokens):
        while len(flying) < policy.slots and begun < len(tokens):
            amount = tokens[begun] / math.exp(rng.gauss(0, noise)) + extra_s * curve(1)
            heapq.heappush(flying, _Request(work + amount, begun, tokens[begun], now_s, flight_sum))
            begun += 1
        factor = change.factor if change is not None and done > change.after * total else 1.0
        per_s = curve(len(flying)) * factor / len(flying)
        left_s = (flying[0].end - work) / per_s
        due_s = policy.due_s()
        if due_s is not None and now_s + left_s > due_s and begun < len(tokens):
            pass_time(max(0.0, due_s - now_s), per_s)
            policy.due(now_s)
            continue
        pass_time(left_s, per_s)
        ended = heapq.heappop(flying)
        done += ended.tokens
        life_s = max(now_s - ended.began_s, 1e-9)
        policy.ended((flight_sum - ended.sum_then) / life_s, ended.tokens, began_s=ended.began_s, now_s=now_s)
    return now_s
