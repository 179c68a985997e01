"""What a worker gives: tokens per second, share of its best, watts, joules per token. Pure.

* Everything is a difference of two sums of one life, taken by the worker on its own clock: a restart is no negative rate,
  and a command that looks once sees the last minute.
* What is not known is None, never a guess.
"""

from __future__ import annotations

import msgspec

from swarm.core.worker import Heartbeat, RateSample

WINDOW_S = 60.0
"""Rates are measured over so long, or less after a start and after another model was loaded."""
LEAST_S = 4.0
"""Less than this tells nothing."""


class Rates(msgspec.Struct, frozen=True, kw_only=True):
    """Of the model that a worker holds, over the last ``span_s`` seconds; all 0 while it has nothing to do."""

    span_s: float
    requests_per_s: float
    tokens_in_per_s: float
    tokens_out_per_s: float
    in_flight: float
    """Mean of requests at once."""
    watts: float | None
    """Mean power of its cards."""

    @property
    def j_per_1k_tokens(self) -> float | None:
        """Joules for a thousand generated tokens, what it draws between requests included."""
        return self.watts / self.tokens_out_per_s * 1000 if self.watts is not None and self.tokens_out_per_s else None


def rates_of(beat: Heartbeat | None) -> Rates | None:
    """Over the last minute, as the heartbeat tells it; None without one, and while too little time has been measured."""
    if beat is None or len(beat.recent) < 2:
        return None
    old, new = beat.recent[0], beat.recent[-1]
    span_s = new.at_s - old.at_s
    if span_s < LEAST_S:
        return None
    # What a request had generated when it was stopped leaves the sums again.
    return Rates(
        span_s=span_s,
        requests_per_s=max(0, new.requests - old.requests) / span_s,
        tokens_in_per_s=max(0, new.tokens_in - old.tokens_in) / span_s,
        tokens_out_per_s=max(0, new.tokens_out - old.tokens_out) / span_s,
        in_flight=sum(sample.in_flight for sample in beat.recent) / len(beat.recent),
        watts=_watts(old, new),
    )


def _watts(old: RateSample, new: RateSample) -> float | None:
    """Between the readings of the cards: those come less often than samples."""
    if old.energy_j is None or new.energy_j is None or new.energy_at_s <= old.energy_at_s:
        return None
    return max(0.0, new.energy_j - old.energy_j) / (new.energy_at_s - old.energy_at_s)


def share_of_best(beat: Heartbeat | None, rates: Rates | None) -> float | None:
    """Tokens per second over the best that this card has shown for its model; None while either is unknown.

    Generated ones; of a model that generates none, as for embeddings, those of the prompts.
    """
    tuned = beat.tuned.get(beat.model) if beat is not None and beat.model is not None else None
    if tuned is None or rates is None or tuned.best_tokens_per_s <= 0:
        return None
    now = rates.tokens_out_per_s or rates.tokens_in_per_s
    return now / max(tuned.best_tokens_per_s, now)


def lifetime_j(beat: Heartbeat) -> float | None:
    """Joules used by the worker's cards in its life; None where unknown."""
    return beat.recent[-1].energy_j if beat.recent else None
