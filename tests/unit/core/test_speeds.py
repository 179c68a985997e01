"""Speeds of workers and models: what was measured, and what is derived from it where nothing was."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.core.placement.speeds import DEFAULT_TASK_S, Speeds, eta_s
from swarm.core.worker import ModelTally, TunedSlots
from tests.support.builders import a_worker

MANY = 1000
positive = st.floats(0.05, 20.0)


def tally(task_s, *, requests=MANY, tokens=0):
    return ModelTally(completed=requests, busy_s=requests * task_s, tokens_out=requests * tokens)


def test_nothing_known_is_the_default_and_no_measurement():
    found = Speeds([a_worker("w", slots=3)])
    assert (found.task_s("w", "m:1"), found.slots("w", "m:1"), found.factor("w")) == (DEFAULT_TASK_S, 3, 1.0)
    assert found.per_s("w", "m:1") == pytest.approx(3 / DEFAULT_TASK_S)
    assert not found.measured("m:1")


@given(
    st.dictionaries(st.sampled_from("abcd"), st.floats(0.25, 4.0), min_size=1),
    st.dictionaries(st.sampled_from("xyz"), positive, min_size=1),
)
def test_what_was_measured_often_is_believed(cards, models):
    views = [a_worker(c, learned={m: tally(base * slow) for m, base in models.items()}) for c, slow in cards.items()]
    found = Speeds(views)
    for card, slow in cards.items():
        for model, base in models.items():
            assert found.task_s(card, model) == pytest.approx(base * slow, rel=0.05)


@given(positive, positive, st.floats(0.2, 5.0))
def test_a_pair_nobody_tried_follows_the_card_on_other_models(base, other, slow):
    """The ratio on ``x`` carries over to ``y``, which only the first card has run."""
    first = a_worker("a", learned={"x": tally(base), "y": tally(other)})
    found = Speeds([first, a_worker("b", learned={"x": tally(base * slow)})])
    assert found.task_s("b", "y") / found.task_s("a", "y") == pytest.approx(slow, rel=0.1)


def test_a_card_that_ran_nothing_is_taken_for_the_mean_one():
    found = Speeds([a_worker("a", learned={"x": tally(1.0)}), a_worker("b", learned={"x": tally(3.0)}), a_worker("c")])
    assert 1.0 < found.task_s("c", "x") < 3.0
    assert found.factor("c") == 1.0


def test_a_few_requests_are_no_proof():
    found = Speeds([a_worker("a", learned={"x": tally(1.0)}), a_worker("b", learned={"x": tally(4.0, requests=1)})])
    assert found.task_s("b", "x") < 1.6


def test_who_got_the_long_answers_is_not_slow():
    long, short = tally(4.0, tokens=400), tally(1.0, tokens=100)
    found = Speeds([a_worker("a", learned={"x": long}), a_worker("b", learned={"x": short})])
    assert found.task_s("a", "x") == pytest.approx(found.task_s("b", "x"), rel=0.01) == pytest.approx(2.5, rel=0.01)


def test_measured_tokens_per_second_take_the_place_of_the_mean_over_a_life():
    """One slot at first, eight now: the card does 400 tokens/s, of 100 tokens each."""
    tuned = TunedSlots(in_flight=8, tokens_per_s=400.0, best_tokens_per_s=410.0, best_in_flight=8)
    found = Speeds([a_worker("a", learned={"x": tally(1.0, tokens=100)}, tuned={"x": tuned})])
    assert found.per_s("a", "x") == pytest.approx(4.0, rel=0.01)
    assert found.slots("new", "x") == 8, "another worker would choose as many, as far as is known"


def test_a_model_that_generates_nothing_is_measured_by_the_tokens_of_its_prompts():
    tuned = TunedSlots(in_flight=4, tokens_per_s=8000.0, best_tokens_per_s=8000.0, best_in_flight=4)
    learned = {"x": ModelTally(completed=MANY, busy_s=MANY, tokens_in=MANY * 80)}
    assert Speeds([a_worker("a", learned=learned, tuned={"x": tuned})]).per_s("a", "x") == pytest.approx(100, rel=0.01)


def test_a_restarted_swarm_knows_from_the_record_which_card_is_faster():
    fast, slow = (TunedSlots(in_flight=4, best_tokens_per_s=rate, best_in_flight=4) for rate in (400.0, 100.0))
    found = Speeds([a_worker("a", tuned={"x": fast}), a_worker("b", tuned={"x": slow})])
    assert found.per_s("a", "x") / found.per_s("b", "x") == pytest.approx(4.0, rel=0.2)
    assert found.factor("b") / found.factor("a") > 2, "which tells about other models too"
    assert not found.measured("x"), "how long a request takes is not known yet"


@given(st.permutations(["a", "b", "c", "d"]))
def test_the_order_of_the_workers_plays_no_part(names):
    views = {n: a_worker(n, learned={"x": tally(1.0 + ord(n) % 3), "y": tally(0.3, requests=7)}) for n in names}
    one, other = Speeds([views[n] for n in names]), Speeds([views[n] for n in sorted(names)])
    assert all(one.task_s(n, m) == other.task_s(n, m) for n in names for m in "xy")


@given(
    st.lists(
        st.builds(ModelTally, completed=st.integers(0, 9), busy_s=st.floats(0, 1e9), tokens_out=st.integers(0, 9)),
        max_size=5,
    )
)
def test_speeds_are_finite_and_above_nothing_whatever_a_heartbeat_says(tallies):
    found = Speeds([a_worker(f"w{n}", learned={"x": one}) for n, one in enumerate(tallies)])
    for n in range(len(tallies) + 1):
        assert 0 < found.per_s(f"w{n}", "x") < math.inf


def test_eta():
    assert eta_s(100, 2, [3.0, 1.0]) == pytest.approx(101 / 4)
    assert eta_s(100, 0, []) is None
