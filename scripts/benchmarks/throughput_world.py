# ruff: noqa: ARG002  (a fixed number has no use for what it is told)
"""A card in virtual time that loads a model for so many at once and may run out of memory; and hidden curves for it.

The tuner's rules are the real ones (``core/policy/slot_tuning`` and ``slot_capacity``), asked as a worker asks them.
Curves are drawn at random from a seed, so that no constant can have been fitted to them; the measured ones are added.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from benchmarks.throughput_curves import MEASURED, lengths, rate_of

from swarm.config.settings import LlmSettings
from swarm.core.policy import slot_tuning
from swarm.core.policy.slot_capacity import LoadFacts, after_no_memory, capacity_for, reload_gain_s, reload_pays
from swarm.core.policy.slot_levels import LADDER

LOAD_S = 8.0
LOOK_S = 5.0
"""Whether a reload pays is looked into this often, as the worker does."""
MOST = LlmSettings().slots_max


class Scenario(NamedTuple):
    """One card and one batch. Rates are total tokens/s by requests at once."""

    name: str
    family: str
    points: Mapping[int, float]
    refused_from: int = 0
    """A load for so many finds no memory; 0: any does."""
    dies_from: int = 0
    """With so many at work the runner runs out of memory; 0: never."""
    drift: float = 1.0
    """The rate is multiplied by this once half of the tokens are done."""
    noise: float = 0.1
    """Standard deviation of a request's own speed (log-normal)."""

    @property
    def most(self) -> int:
        """The highest number at once that this card can take."""
        limits = [limit - 1 for limit in (self.refused_from, self.dies_from) if limit]
        return min([MOST, *limits])


@dataclass
class Outcome:
    """What a batch took. ``failures``: by reason and number of slots."""

    seconds: float = 0.0
    loads: int = 0
    failures: dict[tuple[str, int], int] = field(default_factory=dict)
    done: int = 0
    slots: list[tuple[float, int]] = field(default_factory=list)
    """Each change of the number in flight, with its time."""

    def failed(self, why: str, slots: int) -> None:
        self.failures[why, slots] = self.failures.get((why, slots), 0) + 1


class FixedSlots:
    """Always the same number, and loaded for it."""

    def __init__(self, slots: int) -> None:
        self.slots = self.capacity = slots

    def load(self, _scenario: Scenario, outcome: Outcome, now_s: float) -> float:
        """Load the model; the time when it is loaded."""
        outcome.loads += 1
        return now_s + LOAD_S

    def ended(self, in_flight: float, tokens: int, began_s: float, now_s: float) -> None:
        """Changes nothing."""

    def overdue_s(self) -> float | None:
        """Never."""
        return None

    def overdue(self, now_s: float) -> None:
        """Never called."""

    def out_of_memory(self, slots: int, now_s: float) -> None:
        """It would try the same again: no baseline does."""
        raise AssertionError(slots)

    def reload_for(self, waiting: int, now_s: float) -> bool:
        """Never."""
        return False


class AutoSlots:
    """What a worker does with ``slots = "auto"`` and an engine that can be loaded for any number."""

    def __init__(self, tokens: float) -> None:
        self._tokens = tokens
        self._facts = LoadFacts(memory_mib=10**6, weights_mib=1, kv_bytes_per_token=1, context=1, most=MOST)
        self._look_s = 0.0
        self._request_s = 1.0
        self.capacity = 0
        self.tuning = slot_tuning.start(1)

    @property
    def slots(self) -> int:
        """How many to keep in flight."""
        return self.tuning.slots

    def load(self, scenario: Scenario, outcome: Outcome, now_s: float) -> float:
        """Load for as many as the rules say, and for half where that finds no memory; the time when it is loaded."""
        slots = capacity_for(self._facts).slots
        while scenario.refused_from and slots >= scenario.refused_from:
            now_s += LOAD_S
            outcome.failed("no memory at the load", slots)
            self._facts = _with(self._facts, failed=min(slots, self._facts.failed or slots))
            slots = max(after_no_memory(slots, self.capacity), 1)
        outcome.loads += 1
        now_s += LOAD_S
        first = self.capacity == 0
        self.capacity = slots
        self._facts = _with(self._facts, wanted=0)
        limit = min(slots, MOST)
        self.tuning = slot_tuning.start(limit, now_s=now_s) if first else slot_tuning.limited(self.tuning, limit, now_s)
        return now_s

    def ended(self, in_flight: float, tokens: int, began_s: float, now_s: float) -> None:
        """A sample."""
        self._request_s += (now_s - began_s - self._request_s) / 24
        self.tuning = slot_tuning.sampled(self.tuning, in_flight, tokens / (now_s - began_s), began_s=began_s, now_s=now_s)

    def overdue_s(self) -> float | None:
        """When a step up is given up."""
        return slot_tuning.overdue_s(self.tuning, self._tokens)

    def overdue(self, now_s: float) -> None:
        """It is."""
        self.tuning = slot_tuning.overdue(self.tuning, now_s)

    def out_of_memory(self, slots: int, now_s: float) -> None:
        """The runner died with so many at work: neither tried nor loaded for again."""
        self.tuning = slot_tuning.out_of_memory(self.tuning, slots, now_s)
        self._facts = _with(self._facts, failed=min(slots, self._facts.failed or slots), wanted=self.tuning.limit)

    def reload_for(self, waiting: int, now_s: float) -> bool:
        """Whether a reload for twice as many pays."""
        gain = self.tuning.wants_more
        if not (self.tuning.settled and gain) or now_s < self._look_s:
            return False
        self._look_s = now_s + LOOK_S
        saved_s = reload_gain_s(
            waiting=waiting, tokens=self._tokens, tokens_per_s=self.tuning.tokens_per_s, gain=gain, capacity=self.capacity
        )
        if not reload_pays(saved_s, load_s=LOAD_S, request_s=self._request_s):
            return False
        wanted = _with(self._facts, wanted=2 * self.capacity)
        if capacity_for(wanted).slots <= self.capacity:
            return False
        self._facts = wanted
        return True


def _with(facts: LoadFacts, **changes: int) -> LoadFacts:
    return LoadFacts(**{**{name: getattr(facts, name) for name in LoadFacts.__struct_fields__}, **changes})


class _Flying(NamedTuple):
    end: float
    """At this much work done per request (virtual)."""
    number: int
    began_s: float
    flight_then: float
    """The integral of requests in flight over time, when it began."""


class Play:
    """One batch on one card, to its end."""

    def __init__(self, scenario: Scenario, tokens: Sequence[int], policy: FixedSlots | AutoSlots, seed: int) -> None:
        self._scenario = scenario
        self._tokens = tokens
        self._policy = policy
        self._rate = rate_of(scenario.points)
        self._random = random.Random(seed)
        self._waiting = list(range(len(tokens)))[::-1]
        self._flying: list[_Flying] = []
        self._now_s = self._work = self._flight = 0.0
        self._half = sum(tokens) / 2
        self._tokens_done = 0.0
        self._reloads = True
        self.outcome = Outcome()

    def run(self) -> Outcome:
        """All requests, one way or the other."""
        policy, outcome = self._policy, self.outcome
        while self._flying or self._waiting:
            if self._reloads and not self._flying:
                self._now_s = policy.load(self._scenario, outcome, self._now_s)
                self._reloads = False
            self._fill()
            if not self._flying:
                continue
            self._step()
            if not self._reloads and policy.reload_for(len(self._waiting), self._now_s):
                self._reloads = True
        outcome.seconds = self._now_s
        return outcome

    def _fill(self) -> None:
        """As many in flight as the policy wants; none new while the model is to be loaded anew."""
        wanted = min(self._policy.slots, self._policy.capacity)
        if not self.outcome.slots or self.outcome.slots[-1][1] != wanted:
            self.outcome.slots.append((self._now_s, wanted))
        while not self._reloads and len(self._flying) < wanted and self._waiting:
            number = self._waiting.pop()
            amount = self._tokens[number] / math.exp(self._random.gauss(0, self._scenario.noise))
            heapq.heappush(self._flying, _Flying(self._work + amount, number, self._now_s, self._flight))
            if self._scenario.dies_from and len(self._flying) >= self._scenario.dies_from:
                self._die(len(self._flying))

    def _die(self, slots: int) -> None:
        """What was at work is taken back and begins anew, after a load."""
        self.outcome.failed("out of memory at work", slots)
        self._waiting += sorted((one.number for one in self._flying), reverse=True)
        self._flying.clear()
        self._policy.out_of_memory(slots, self._now_s)
        self._reloads = True

    def _step(self) -> None:
        """To the next end, or to the moment at which the policy wants to be asked."""
        per_s = self._rate(len(self._flying)) / len(self._flying)
        per_s *= self._scenario.drift if self._tokens_done > self._half else 1.0
        left_s = (self._flying[0].end - self._work) / per_s
        due_s = self._policy.overdue_s()
        if due_s is not None and self._now_s + left_s > due_s and self._waiting and not self._reloads:
            self._pass(max(0.0, due_s - self._now_s), per_s)
            self._policy.overdue(self._now_s)
            return
        self._pass(left_s, per_s)
        ended = heapq.heappop(self._flying)
        tokens = self._tokens[ended.number]
        self._tokens_done += tokens
        self.outcome.done += 1
        life_s = max(self._now_s - ended.began_s, 1e-9)
        self._policy.ended((self._flight - ended.flight_then) / life_s, tokens, ended.began_s, self._now_s)

    def _pass(self, seconds: float, per_s: float) -> None:
        self._now_s += seconds
        self._work += seconds * per_s
        self._flight += seconds * len(self._flying)


def scenarios(seed: int) -> Iterator[Scenario]:
    """At least 30: measured, flat, with an early or a late knee, falling beyond a peak, with memory's cliff, with drift."""
    rng = random.Random(seed)
    for name, points in MEASURED.items():
        yield Scenario(name, "measured", points)
        yield Scenario(f"{name}, half as fast in mid-run", "drift", points, drift=0.5)
        yield Scenario(f"{name}, twice as fast in mid-run", "drift", points, drift=2.0)
    for n in range(2):
        yield Scenario(f"flat {n}", "flat", {1: (top := rng.uniform(10, 200)), 256: top * rng.uniform(0.98, 1.03)})
    for n in range(6):
        yield Scenario(f"early knee {n}", "early knee", _knee(rng, rng.uniform(1.5, 7)))
    for n in range(6):
        yield Scenario(f"late knee {n}", "late knee", _knee(rng, rng.uniform(12, 90)))
    for n in range(5):
        yield Scenario(f"peak {n}", "peak", _knee(rng, rng.uniform(3, 30), after=rng.uniform(0.45, 0.9)))
    for n in range(5):
        yield Scenario(f"spills {n}", "cliff: spills", _cliff(rng, rng.randint(3, 40)))
    for n in range(5):
        yield Scenario(f"load refused {n}", "cliff: load refused", _knee(rng, 40), refused_from=rng.randint(3, 48))
    for n in range(4):
        yield Scenario(f"dies at work {n}", "cliff: dies at work", _knee(rng, 40), dies_from=rng.randint(5, 48))
    for n in range(6):
        knee = _knee(rng, rng.uniform(2, 40))
        yield Scenario(f"drift {n}", "drift", knee, drift=rng.choice((0.5, 2.0)))


def _knee(rng: random.Random, knee: float, after: float = 1.0) -> dict[int, float]:
    """Grows by some power up to the knee, then hardly, or falls to a part of the top by eight times the knee."""
    alone, power, grows = rng.uniform(15, 150), rng.uniform(0.6, 0.97), rng.uniform(1.0, 1.03)
    at = max(2, round(knee))
    top = alone * at**power
    level = top * (grows if after == 1.0 else after)
    points = {1: alone, at: top, 8 * at: level, 512: level}
    points |= {n: alone * n**power for n in range(2, at, max(1, at // 6))}
    return dict(sorted(points.items()))


def _cliff(rng: random.Random, last: int) -> dict[int, float]:
    """Grows up to the last number that fits; beyond, work goes to the CPU."""
    points = {n: rate for n, rate in _knee(rng, last).items() if n <= last}
    top = points[last]
    return points | {last + 1: top * rng.uniform(0.3, 0.6), 4 * last: top * rng.uniform(0.1, 0.3), 512: top * 0.1}


class Played(NamedTuple):
    """A scenario beside the best fixed number."""

    scenario: Scenario
    share: float
    """Tokens/s of the tuner over those at the best fixed number."""
    best: int
    requests: int
    outcome: Outcome


def played(scenario: Scenario, minutes: float, seed: int) -> Played:
    """A batch that takes so long at the best fixed number, loads included in both."""
    rate = rate_of(scenario.points)
    levels = [level for level in LADDER if level <= scenario.most]
    best = max(levels, key=rate)
    mean = sum(lengths(1000, seed)) / 1000
    requests = max(200, round(minutes * 60 * rate(best) / mean))
    tokens = lengths(requests, seed)
    at = levels.index(best)
    near = levels[max(0, at - 1) : at + 2]
    fixed = {level: Play(scenario, tokens, FixedSlots(level), seed).run().seconds for level in near}
    best = min(fixed, key=lambda level: fixed[level])
    outcome = Play(scenario, tokens, AutoSlots(sum(tokens) / len(tokens)), seed).run()
    return Played(scenario, fixed[best] / outcome.seconds, best, requests, outcome)
