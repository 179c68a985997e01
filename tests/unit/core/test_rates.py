"""Rates of a worker: differences of its own sums, and nothing where those tell nothing."""

from __future__ import annotations

import msgspec
import pytest

from swarm.core.rates import LEAST_S, lifetime_j, rates_of, share_of_best
from swarm.core.worker import RateSample, TunedSlots
from tests.support.builders import a_heartbeat

MODEL = "m:1"


def beat(*samples, best=0.0):
    tuned = {MODEL: TunedSlots(best_tokens_per_s=best, best_in_flight=4)} if best else {}
    return msgspec.structs.replace(a_heartbeat("w", holding=MODEL, tuned=tuned), recent=samples)


OLD = RateSample(100.0, 10, 1000, 2000, 4, 5000.0, 97.0)
NEW = RateSample(120.0, 30, 3000, 8000, 2, 8200.0, 113.0)


def test_rates_are_differences_over_the_workers_own_time():
    found = rates_of(beat(OLD, NEW))
    assert (found.span_s, found.requests_per_s, found.tokens_in_per_s, found.tokens_out_per_s) == (20.0, 1.0, 100.0, 300.0)
    assert (found.in_flight, found.watts) == (3.0, 200.0)
    assert found.j_per_1k_tokens == pytest.approx(200 / 300 * 1000)


def test_what_is_not_known_is_not_invented():
    assert rates_of(None) is None
    assert rates_of(beat()) is None
    assert rates_of(beat(NEW)) is None
    assert rates_of(beat(OLD, msgspec.structs.replace(NEW, at_s=100.0 + LEAST_S - 0.1))) is None
    unpowered = rates_of(beat(OLD, msgspec.structs.replace(NEW, energy_j=None)))
    assert (unpowered.watts, unpowered.j_per_1k_tokens) == (None, None)
    assert lifetime_j(beat()) is None
    unread = rates_of(beat(OLD, msgspec.structs.replace(NEW, energy_at_s=97.0)))
    assert unread.watts is None, "the cards have not been read since"
    assert lifetime_j(beat(OLD, NEW)) == 8200.0


def test_tokens_of_a_request_that_was_stopped_make_no_negative_rate():
    found = rates_of(beat(OLD, msgspec.structs.replace(NEW, tokens_out=1500)))
    assert found.tokens_out_per_s == 0
    assert found.j_per_1k_tokens is None, "no tokens, no joules for them"


def test_the_share_of_the_best_is_one_at_most_and_unknown_without_a_best():
    found = rates_of(beat(OLD, NEW))
    assert share_of_best(beat(OLD, NEW), found) is None
    assert share_of_best(beat(OLD, NEW, best=400.0), found) == 0.75
    assert share_of_best(beat(OLD, NEW, best=200.0), found) == 1.0
    assert share_of_best(beat(OLD, NEW, best=200.0), None) is None
    embedding = beat(OLD, msgspec.structs.replace(NEW, tokens_out=OLD.tokens_out), best=200.0)
    assert share_of_best(embedding, rates_of(embedding)) == 0.5, "of the prompts' tokens, where none are generated"
