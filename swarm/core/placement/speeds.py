"""How fast each worker runs each model: learned from its requests, else derived from what others and other models show.

* A request's seconds are ``base(model) * factor(worker)``, corrected by what was measured of the pair itself. Each is drawn
  towards the next more general one by ``PRIOR_REQUESTS``, so that a handful of requests is no proof.
* Requests are counted by the tokens they generated where all of them did: a worker that got the long ones is not slow.
* Where the worker measured the tokens per second of all its slots (``Heartbeat.tuned``), that takes the place of the mean
  over its life; a restarted worker knows it from its record, before its first request.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple, TypeVar

from swarm.core.snapshot import SwarmSnapshot, WorkerView
from swarm.core.worker import ModelTally, TunedSlots

DEFAULT_TASK_S = 1.0
"""Assumed until any worker has run one request of the model."""
PRIOR_REQUESTS = 16.0
RECORDED_REQUESTS = 100.0
"""A rate measured by the worker over all its slots weighs at least as many requests."""
ASSUMED_TOKENS = 200.0
"""Of a request, until one has ended: turns recorded tokens per second into a relation between workers."""
_ROUNDS = 10
_NO_TIME_S = 1e-6

T = TypeVar("T")

Pair = tuple[str, str]
"""Worker, canonical model name."""


class _Seen(NamedTuple):
    """What was measured of one pair: so many requests in so many seconds of a slot."""

    requests: float
    busy_s: float


class Speeds:
    """Seconds per request and requests per second of every pair. Immutable; the order of the workers plays no part."""

    def __init__(self, views: Iterable[WorkerView]) -> None:
        beats = {v.name: v.heartbeat for v in sorted(views, key=lambda v: v.name) if v.heartbeat is not None}
        self._rows = {v.name: v.row for v in views}
        self._tuned: dict[Pair, TunedSlots] = {(w, m): t for w, beat in beats.items() for m, t in beat.tuned.items()}
        tallies: dict[Pair, ModelTally] = {(w, m): t for w, beat in beats.items() for m, t in beat.models.items()}
        self._tokens = _tokens_per_request(tallies)
        self._measured = frozenset(model for (_, model), tally in tallies.items() if _ended(tally))
        self._seen = {pair: seen for pair in {**tallies, **self._tuned} if (seen := self._see(pair, tallies.get(pair)))}
        self._base, self._factor = _fit(self._seen)
        in_flight = _grouped((model, tuned.in_flight) for (_, model), tuned in self._tuned.items())
        self._per_s: dict[Pair, float] = {}
        """Worked out so far."""
        self._in_flight = {model: round(sum(found) / len(found)) for model, found in in_flight.items()}

    def measured(self, model: str) -> bool:
        """Whether requests of the model have ended on any worker; else all times are assumed ones."""
        return model in self._measured

    def factor(self, worker: str) -> float:
        """Slowness of one slot of the worker beside the mean one: 0.5 is twice as fast. 1 while nothing is known."""
        return self._factor.get(worker, 1.0)

    def slots(self, worker: str, model: str) -> int:
        """Requests of the model that the worker keeps in flight, or would, as far as is known."""
        tuned = self._tuned.get((worker, model))
        if tuned is not None:
            return max(1, tuned.in_flight)
        row = self._rows.get(worker)
        return max(row.llm_slots if row is not None else 1, self._in_flight.get(model, 1))

    def task_s(self, worker: str, model: str) -> float:
        """Seconds of a request in one slot of the worker."""
        expected_s = self._base.get(model, DEFAULT_TASK_S) * self.factor(worker)
        seen = self._seen.get((worker, model))
        if seen is None:
            return expected_s
        return (seen.busy_s + PRIOR_REQUESTS * expected_s) / (seen.requests + PRIOR_REQUESTS)

    def per_s(self, worker: str, model: str) -> float:
        """Requests per second of the worker with all its slots in use."""
        pair = worker, model
        if pair not in self._per_s:
            self._per_s[pair] = self.slots(worker, model) / self.task_s(worker, model)
        return self._per_s[pair]

    def _see(self, pair: Pair, tally: ModelTally | None) -> _Seen | None:
        tuned, per_request = self._tuned.get(pair), self._tokens.get(pair[1])
        ended = _ended(tally)
        if tuned is not None and (per_request or not self.measured(pair[1])):
            now = tuned.tokens_per_s > 0
            rate = tuned.tokens_per_s if now else tuned.best_tokens_per_s
            in_flight = tuned.in_flight if now else tuned.best_in_flight
            if rate > 0:
                weight = max(ended, RECORDED_REQUESTS)
                return _Seen(weight, weight * max(1, in_flight) * (per_request or ASSUMED_TOKENS) / rate)
        if tally is None or not ended:
            return None
        return _Seen(_tokens(tally) / per_request if per_request else ended, tally.busy_s)


def speeds(snapshot: SwarmSnapshot) -> Speeds:
    """Of all workers that have sent a heartbeat, dead ones included: what they learned still tells about the models."""
    return Speeds(snapshot.workers)


def eta_s(waiting: int, running: int, per_s: Iterable[float]) -> float | None:
    """Seconds until so many requests are done by workers of these speeds; a running one counts half. None without any."""
    total = sum(per_s)
    return (waiting + running / 2) / total if total > 0 else None


def _ended(tally: ModelTally | None) -> float:
    """Requests that ended and took time."""
    return float(tally.completed + tally.failed) if tally is not None and tally.busy_s > _NO_TIME_S else 0.0


def _tokens(tally: ModelTally) -> int:
    """Those that a rate is made of: generated ones; of a model that generates none, as for embeddings, the prompts'."""
    return tally.tokens_out or tally.tokens_in


def _tokens_per_request(tallies: Mapping[Pair, ModelTally]) -> dict[str, float]:
    """By model: the mean of those that its rate is made of. A model is left out where some worker's requests had none."""
    of_model = _grouped((model, tally) for (_, model), tally in tallies.items() if _ended(tally))
    return {
        model: sum(_tokens(t) for t in found) / sum(_ended(t) for t in found)
        for model, found in of_model.items()
        if all(_tokens(t) for t in found)
    }


def _fit(seen: Mapping[Pair, _Seen]) -> tuple[dict[str, float], dict[str, float]]:
    """Base seconds by model and factor by worker that explain what was seen; alternating, from equal workers."""
    of_model = _grouped((model, (worker, one)) for (worker, model), one in seen.items())
    of_worker = _grouped((worker, (model, one)) for (worker, model), one in seen.items())
    base: dict[str, float] = {}
    factor = dict.fromkeys(of_worker, 1.0)
    for _ in range(_ROUNDS):
        for model, pairs in of_model.items():
            base[model] = sum(s.busy_s for _, s in pairs) / sum(s.requests * factor[worker] for worker, s in pairs)
        for worker, theirs in of_worker.items():
            slow = sum(s.busy_s / base[model] for model, s in theirs)
            factor[worker] = (slow + PRIOR_REQUESTS) / (sum(s.requests for _, s in theirs) + PRIOR_REQUESTS)
    return base, factor


def _grouped(pairs: Iterable[tuple[str, T]]) -> dict[str, list[T]]:
    found: dict[str, list[T]] = {}
    for name, one in pairs:
        found.setdefault(name, []).append(one)
    return found
