"""The size of packs grows while that pays, and settles where it does not."""

from __future__ import annotations

import random

import pytest

from swarm.core.policy.pack_size import AGAIN_AFTER, PackSize, after_pack, after_timeout


def settled(seconds_of, *, packs=200, noise=0.0, state=None):
    """The size after so many full packs; ``seconds_of`` texts in one."""
    rng = random.Random(7)
    state = state or PackSize()
    for _ in range(packs):
        seconds = seconds_of(state.size) * (1 + rng.uniform(-noise, noise))
        state = after_pack(state, texts=state.size, characters=100 * state.size, seconds=seconds)
    return state


@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_where_the_round_trip_costs_most_packs_grow_to_the_bound(noise):
    assert settled(lambda texts: 0.1 + 0.0001 * texts, noise=noise).size == 256


def test_where_each_text_costs_the_same_packs_stay_small():
    assert settled(lambda texts: 0.01 * texts).size <= 32


def test_a_size_that_turns_slow_is_left():
    fast = settled(lambda texts: 0.1 + 0.0001 * texts)
    slow = settled(lambda texts: 0.1 + 0.0001 * texts + (5.0 if texts > 64 else 0.0), state=fast)
    assert slow.size <= 128


def test_packs_that_are_not_full_and_clocks_that_stand_still_teach_nothing():
    state = PackSize()
    assert after_pack(state, texts=3, characters=300, seconds=0.1) == state
    assert after_pack(state, texts=16, characters=300, seconds=0.0) == state


def test_a_size_that_takes_too_long_is_halved_and_tried_again_only_much_later():
    def quick(texts):
        return 0.1 + 0.0001 * texts

    state = after_timeout(PackSize(size=64), texts=50)
    assert (state.size, state.most) == (16, 16)
    assert after_timeout(state, texts=50) == state, "the others of that pack teach the same"
    assert settled(quick, packs=AGAIN_AFTER, state=state).size == 16
    assert settled(quick, packs=AGAIN_AFTER + 1, state=state).size == 32
    assert after_timeout(after_timeout(state, texts=2), texts=2).size == 1
