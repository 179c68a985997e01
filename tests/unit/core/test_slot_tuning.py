import itertools
import statistics

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scripts.benchmarks.throughput_curves import CHANGES, Fixed, Tuned, best_of, curves, lengths, run
from swarm.core.policy import slot_tuning
from swarm.core.policy.slot_levels import ENOUGH, LADDER, PLENTY, Rate, below
from swarm.core.policy.slot_state import words
from swarm.core.policy.slot_tuning import (
    FIRST,
    limited,
    out_of_memory,
    overdue,
    overdue_s,
    sampled,
    start,
)

REQUESTS = 3000


class Card:
    """Answers requests one after the other, each in the same time, at the rates of a table."""

    def __init__(self, rates, tuning, life_s=1.0):
        self.rates, self.tuning, self.life_s, self.now_s = rates, tuning, life_s, 0.0

    def answer(self, times=1):
        for _ in range(times):
            began_s, slots = self.now_s, self.tuning.slots
            self.now_s += self.life_s
            per_request = self.rates[slots] / slots
            self.tuning = sampled(self.tuning, slots, per_request, began_s=began_s, now_s=self.now_s)
        return self.tuning

    def until_settled(self):
        for _ in range(2000):
            if self.answer().settled:
                return self.tuning
        raise AssertionError(f"never settled: {self.tuning}")


def flat(rate=100.0):
    return dict.fromkeys(LADDER, rate)


def linear(top):
    return {level: 10.0 * min(level, top) for level in LADDER}


# -- on curves, in virtual time ------------------------------------------------------------------------------------------


def share_of_best(points, change, *, limit, seed):
    tokens = lengths(REQUESTS, seed)
    fixed_s = run(points, tokens, Fixed(best_of(points, limit)), change=change, seed=seed)
    return fixed_s / run(points, tokens, Tuned(limit, sum(tokens) / len(tokens)), change=change, seed=seed)


@pytest.mark.parametrize("limit", [32, 64])
def test_over_a_batch_it_comes_near_the_best_fixed_number_on_every_curve(limit):
    shares = {
        (name, change): share_of_best(points, change, limit=limit, seed=number)
        for number, (name, points) in enumerate(curves().items())
        for change in CHANGES
    }
    assert len(shares) >= 30
    worst = min(shares, key=lambda key: shares[key])
    assert shares[worst] >= 0.90, worst
    assert statistics.median(shares.values()) >= 0.97


def test_the_model_in_virtual_time_shares_one_rate_among_all():
    points, tokens = {1: 10.0, 4: 20.0}, [100] * 400
    assert run(points, tokens, Fixed(1), noise=0) == pytest.approx(4000)
    assert run(points, tokens, Fixed(4), noise=0) == pytest.approx(2000)


# -- climbing and lowering -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("top", "best"), [(1, 1), (8, 8), (16, 16), (64, 64)])
def test_it_goes_where_the_rate_stops_growing(top, best):
    assert Card(linear(top), start(64)).until_settled().best == best


def test_a_step_that_hardly_pays_is_not_kept():
    rates = flat() | {16: 101.0, 32: 102.0}
    assert Card(rates, start(64)).until_settled().best < 8


def test_between_a_level_and_one_that_is_too_many_the_middle_is_tried():
    rates = linear(512) | dict.fromkeys([32, 48, 64], 50.0)
    tuning = Card(rates, start(64)).until_settled()
    assert tuning.best == 24


def test_one_lucky_or_unlucky_answer_moves_nothing():
    card = Card(linear(64), start(64))
    before = card.answer(ENOUGH - 1)
    assert before.slots == FIRST
    assert sampled(before, FIRST, 10_000.0, began_s=card.now_s - 100, now_s=card.now_s) == before or before.trying == "here"


@pytest.mark.parametrize(
    ("in_flight", "began_s", "tokens_s"),
    [(2.0, 1.0, 5.0), (4.5, 1.0, 5.0), (4.0, -1.0, 5.0), (4.0, 1.0, 0.0)],
    ids=["fewer in flight", "more in flight", "begun before", "no tokens"],
)
def test_what_did_not_run_beside_just_so_many_tells_nothing(in_flight, began_s, tokens_s):
    tuning = start(64)
    assert sampled(tuning, in_flight, tokens_s, began_s=began_s, now_s=2.0) == tuning
    assert sampled(tuning, 4.2, 5.0, began_s=0.0, now_s=2.0) != tuning


def test_a_step_up_without_answers_is_taken_back_in_time():
    card = Card(linear(64), start(64), life_s=10.0)
    tuning = card.answer(ENOUGH)
    assert (tuning.slots, tuning.trying) == (8, "up")
    due_s = overdue_s(tuning, tokens=100)
    assert due_s == pytest.approx(card.now_s + slot_tuning.SOON * 8 * 100 / 40)
    after = overdue(tuning, due_s)
    assert after.slots < 8
    assert "8 gave" in words(after)
    assert overdue_s(after, tokens=100) is None


def test_a_step_up_whose_first_answers_are_not_slow_gets_more_time():
    card = Card(linear(64), start(64), life_s=10.0)
    card.answer(ENOUGH)
    late_s = overdue_s(card.tuning, tokens=100)
    card.rates = {**card.rates, 8: 8.0}
    assert overdue_s(card.answer(), tokens=100) == late_s
    card.rates = linear(64)
    assert overdue_s(card.answer(2), tokens=100) > late_s


def test_the_more_there_are_in_flight_the_sooner_a_step_up_without_any_answer_is_taken_back():
    """Of many at once the shortest end early, unless all are slow."""
    lives_s = tuple(float(n) for n in range(1, 25))

    def wait_s(slots):
        up = start(512, first=slots)
        known = Rate(10.0 * slots, 1.0, ENOUGH, lives_s)
        up = msgspec.structs.replace(up, slots=2 * slots, trying="up", rates={slots: known})
        return overdue_s(up, tokens=125)

    waits_s = [wait_s(slots) for slots in (4, 8, 16, 32)]
    assert waits_s == sorted(waits_s, reverse=True)
    assert waits_s[-1] < waits_s[0] / 5


def test_after_a_step_down_that_gave_much_the_middle_is_tried_before_less():
    card = Card({1: 19.0, 2: 35.0, 3: 49.0, 4: 21.0, 6: 17.0, 8: 14.0, 12: 10.0, 16: 10.0}, start(16))
    tried = {FIRST}
    while not card.tuning.settled:
        tried.add(card.answer().slots)
    assert card.tuning.best == 3
    assert 1 not in tried


def test_a_neighbour_known_to_be_much_worse_is_looked_at_less_often_and_none_beyond_it():
    def looks(above):
        card = Card({1: 19.0, 2: 30.0, 3: 49.0, 4: 16.0, 6: 16.0, 8: 8.0, 12: 10.0}, start(12))
        card.until_settled()
        known = {**card.tuning.rates, 4: Rate(above, 1.0, ENOUGH)}
        card.tuning = msgspec.structs.replace(
            card.tuning, rates=known, looks=0, step_s=6.0, look_s=card.now_s, patience=20.0
        )
        seen = [card.answer().slots]
        while seen[-1] == 3:
            seen.append(card.answer().slots)
        return len(seen), seen[-1]

    (late, first), (soon, _) = looks(16.0), looks(46.0)
    assert first == 4
    assert late > 2 * soon


def test_a_level_that_was_left_for_one_whose_first_answers_flattered_it_is_taken_up_again():
    card = Card(linear(8) | {16: 88.0}, start(64))
    while card.tuning.slots < 16:
        card.answer()
    card.rates = card.rates | {8: 60.0}
    card.tuning = msgspec.structs.replace(card.tuning, rates={**card.tuning.rates, 8: Rate(90.0, 20.0, ENOUGH)})
    assert card.until_settled().best == 8
    for _ in range(PLENTY):
        card.answer()
    assert card.until_settled().best == 16


def test_a_step_down_that_gains_much_tells_of_another_card_not_of_a_better_level():
    card = Card(linear(64), start(32))
    card.until_settled()
    while card.tuning.settled:
        card.answer()
    assert (card.tuning.best, card.tuning.slots) == (32, 16)
    card.rates = {level: 4 * rate for level, rate in card.rates.items()}
    while card.tuning.trying == "down":
        card.answer()
    assert card.tuning.slots == 32


def test_a_settled_level_looks_round_ever_less_often():
    card = Card(linear(8), start(64))
    card.until_settled()
    looks = []
    for _ in range(20_000):
        settled = card.tuning.settled
        if not card.answer().settled and settled:
            looks.append(card.now_s)
    gaps = [later - sooner for sooner, later in itertools.pairwise(looks[::2])]  # up and down take turns
    assert len(gaps) >= 2
    assert gaps[-1] > 2 * gaps[0]
    assert card.tuning.best == 8


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_a_rate_that_has_drifted_is_learned_anew(factor):
    card = Card(linear(8), start(64))
    settled = card.until_settled()
    card.rates = {level: rate * factor for level, rate in linear(32).items()}
    for _ in range(ENOUGH):
        drifted = card.answer()
    assert not drifted.settled
    assert card.until_settled().best == 32
    assert card.tuning.history[: len(settled.history)] == settled.history


def test_noise_is_no_drift():
    card = Card(linear(8), start(64))
    card.until_settled()
    for number in range(200):
        before = card.tuning
        card.rates = {level: rate * (1.1 if number % 2 else 0.9) for level, rate in linear(8).items()}
        if before.settled:
            assert card.answer().trying != "here"


def test_what_is_remembered_is_held_as_long_as_it_holds():
    tuning = slot_tuning.remembered(64, 32, 320.0, now_s=0.0)
    assert (tuning.slots, tuning.settled, tuning.best_tokens_per_s) == (32, True, 320.0)
    assert Card(linear(32), tuning).answer(ENOUGH).settled
    assert not Card(linear(8), tuning).answer(ENOUGH).settled
    assert slot_tuning.remembered(16, 32, 320.0, now_s=0.0) == start(16, first=32)


def test_a_number_that_is_set_is_only_measured():
    tuning = start(4, first=4)
    for _ in range(100):
        tuning = slot_tuning.measured(tuning, 4.0, 10.0)
    assert (tuning.slots, tuning.settled, tuning.tokens_per_s) == (4, True, 40.0)
    assert slot_tuning.measured(tuning, 2.0, 100.0) == tuning


# -- limits --------------------------------------------------------------------------------------------------------------


def test_what_ran_out_of_memory_is_never_tried_again():
    card = Card(linear(64), start(64))
    card.answer(ENOUGH)
    card.tuning = out_of_memory(card.tuning, 16, card.now_s)
    assert (card.tuning.limit, card.tuning.slots) == (12, 8)
    for _ in range(5000):
        assert card.answer().slots <= 12
    assert below(1) == 1


def test_a_higher_limit_lets_it_climb_on_where_the_old_one_stood_in_its_way():
    card = Card(linear(64), start(16))
    tuning = card.until_settled()
    assert tuning.best == 16
    assert tuning.wants_more == pytest.approx(2.0)
    assert limited(tuning, 32, card.now_s).slots == 32
    card.tuning = limited(tuning, 64, card.now_s)
    assert card.until_settled().best == 64


def test_a_limit_that_is_no_obstacle_is_not_asked_to_move():
    tuning = Card(linear(8), start(64)).until_settled()
    assert tuning.wants_more == 0.0
    assert limited(tuning, 128, 0.0).slots == tuning.slots


def test_where_one_alone_was_allowed_a_second_is_worth_a_try_once():
    card = Card(flat(), start(1))
    tuning = card.until_settled()
    assert tuning.wants_more > 1.0
    card.tuning = limited(tuning, 2, card.now_s)
    assert card.until_settled().wants_more == 0.0


def test_it_says_what_it_found():
    card = Card({**linear(8), 16: 81.0}, start(64))
    assert words(card.tuning) == "4 slots: not measured yet"
    card.until_settled()
    assert words(card.tuning) == "8 slots: 80 tokens/s; 16 gave 81"
    assert words(Card(flat(), start(1)).until_settled()) == "1 slot: 100 tokens/s"


moves = st.one_of(
    st.tuples(st.just("sample"), st.floats(0.1, 1000.0), st.floats(0.8, 1.2), st.floats(0.01, 100.0)),
    st.tuples(st.just("overdue")),
    st.tuples(st.just("memory"), st.integers(1, 300)),
    st.tuples(st.just("limit"), st.integers(1, 300)),
)


@given(st.integers(1, 300), st.lists(moves, max_size=60))
def test_it_is_never_above_its_limit_nor_at_what_ran_out_of_memory(limit, steps):
    tuning, now_s, failed = start(limit), 0.0, 1 << 30
    for step in steps:
        match step:
            case ("sample", rate, share, took_s):
                began_s, now_s = now_s, now_s + took_s
                tuning = sampled(tuning, tuning.slots * share, rate, began_s=began_s, now_s=now_s)
            case ("overdue",):
                due_s = overdue_s(tuning, 100.0)
                tuning = tuning if due_s is None else overdue(tuning, max(now_s, due_s))
            case ("memory", slots):
                failed = min(failed, max(2, slots))
                tuning = out_of_memory(tuning, max(2, slots), now_s)
            case ("limit", asked):
                limit = asked
                tuning = limited(tuning, min(asked, below(failed)), now_s)
        assert 1 <= tuning.slots <= min(tuning.limit, max(limit, 1), failed - 1)
        assert 1 <= tuning.best <= tuning.limit
        assert all(level <= tuning.limit for level in tuning.rates)
        assert len(tuning.history) <= slot_tuning.HISTORY
        assert words(tuning)
