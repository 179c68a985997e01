"""Placement judged by its outcome: a small discrete-event simulation of cards that load, claim and run."""

from __future__ import annotations

import pytest

from swarm.config.settings import BrainSettings, Settings
from swarm.core.placement import placement
from tests.support.placement_simulation import (
    LOAD_S,
    MODELS,
    Arrival,
    FirstCome,
    RoundRobin,
    Swarm,
    lower_bound_s,
    shifting,
    skewed,
    streams,
)


def ratio(arrivals, *, policy=Swarm, cards=8, settings=None):
    sim = policy(arrivals, cards=cards, settings=settings)
    return sim.run() / lower_bound_s(arrivals, cards=cards), sim


def at_once(number, *models):
    return [Arrival(0.0, m, 1.0) for m in models for _ in range(number)]


@pytest.mark.parametrize("weights", [(70, 20, 10), (60, 30, 10), (85, 10, 5), (34, 33, 33), (98, 1, 1)])
def test_skewed_demand_ends_close_to_the_lower_bound(weights):
    ratios = [ratio(skewed(seed, weights))[0] for seed in range(4)]
    assert max(ratios) <= 1.15, ratios


@pytest.mark.parametrize("weights", [((80, 15, 5), (5, 15, 80)), ((100, 0, 0), (0, 0, 100)), ((60, 40, 0), (0, 40, 60))])
@pytest.mark.parametrize("overlap", [0.5, 1.0])
def test_demand_that_shifts_half_way(weights, overlap):
    """The second half arrives when the first is half, or just, done."""
    ratios = [ratio(shifting(seed, *weights, overlap=overlap))[0] for seed in range(3)]
    assert max(ratios) <= 1.15, ratios


def test_plain_policies_are_worse():
    """Else the simulation would be too kind to tell anything."""
    arrivals = skewed(0, (70, 20, 10))
    assert ratio(arrivals, policy=RoundRobin)[0] > 1.5
    assert ratio(arrivals, policy=FirstCome)[0] > 1.5


def test_balance_earns_its_keep_where_work_keeps_coming(monkeypatch):
    """Where all is there at the start it could be left out: cards move when their model has nothing left."""

    def longest_wait(seed):
        sim = Swarm(streams(seed, until_s=120.0))
        sim.run()
        return max(sim.waits.values())

    seeds = (2, 4, 5)
    with_it = sum(longest_wait(seed) for seed in seeds)
    monkeypatch.setattr(placement, "_balance", lambda board: None)
    assert with_it < 0.9 * sum(longest_wait(seed) for seed in seeds)


def test_more_models_than_cards_all_get_their_turn():
    """Two endless models and a small third on two cards: the small one waits for a share of the limit, not for the end."""
    settings = Settings(brain=BrainSettings(max_wait_s=60))
    arrivals = at_once(400, "a:1", "b:1") + at_once(3, "c:1")
    took, sim = ratio(arrivals, cards=2, settings=settings)
    assert sim.waits["c:1"] < 60 + 2 * LOAD_S + 5
    assert took < 1.15


def test_one_card_shared_by_three_models_does_not_thrash():
    settings = Settings(brain=BrainSettings(max_wait_s=60))
    took, sim = ratio(at_once(200, *MODELS), cards=1, settings=settings)
    assert took < 1.5
    assert sim.loads > 6, "nobody waits for the end of the others"


def test_few_tasks_load_few_cards():
    _, sim = ratio(at_once(2, "a:1"))
    assert sim.loads == 2
