"""Placement judged by its outcome: a small discrete-event simulation of cards that load, claim and run."""

from __future__ import annotations

import msgspec
import pytest

from swarm.config.settings import BrainSettings, Settings
from swarm.core.placement import placement
from swarm.core.worker import ModelTally
from tests.support.builders import a_snapshot, a_worker, llm_waiting
from tests.support.placement_simulation import (
    LOAD_S,
    MODELS,
    Arrival,
    FirstCome,
    OneMean,
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


UNEQUAL = {"half of them twice as fast": (2, 2, 2, 2, 1, 1, 1, 1), "a mixed box": (4, 4, 2, 2, 1, 1, 0.5, 0.5)}


@pytest.mark.parametrize("cards", UNEQUAL.values(), ids=UNEQUAL)
def test_unequal_cards_end_sooner_and_load_no_more_than_if_taken_for_equal(cards):
    cases = [skewed(seed, weights) for weights in ((70, 20, 10), (34, 33, 33)) for seed in range(4)]
    ours, plain = ([ratio(arrivals, policy=policy, cards=cards) for arrivals in cases] for policy in (Swarm, OneMean))
    assert max(took for took, _ in ours) <= 1.15
    assert sum(took for took, _ in ours) < sum(took for took, _ in plain)
    assert sum(sim.loads for _, sim in ours) <= sum(sim.loads for _, sim in plain)


@pytest.mark.parametrize("cards", [(2, 1), (1, 1), (4, 1, 1), (0.5, 1, 1, 2)])
def test_the_end_is_foretold_with_cards_of_any_speed(cards):
    """Five seconds after the last load, and at a half: the rest takes what was said, within a twentieth."""
    sim = Swarm(skewed(3, (1, 0, 0), count=200 * len(cards)), cards=cards)
    end_s = sim.run()
    for share in (0.2, 0.5):
        when_s, eta_s = next((at, eta) for at, eta in sim.etas if at >= share * end_s)
        assert eta_s == pytest.approx(end_s - when_s, rel=0.05), (share, when_s, end_s)


def test_the_end_of_several_models_is_foretold_although_cards_will_move():
    sim = Swarm(skewed(1, (70, 20, 10), count=2000), cards=(2, 2, 1, 1))
    end_s = sim.run()
    when_s, eta_s = next((at, eta) for at, eta in sim.etas if at >= 0.3 * end_s)
    assert eta_s == pytest.approx(end_s - when_s, rel=0.05)


def test_the_fastest_card_gets_the_model_with_most_work():
    fast, slow = learned_on("worker-2", 0.5), learned_on("worker-1", 1.0)
    lanes = [llm_waiting(100, "a:1"), llm_waiting(900, "b:1")]
    wants = placement.desired(a_snapshot(workers=[slow, fast], lanes=lanes), Settings())
    assert {name: want.model for name, want in wants.items()} == {"worker-2": "b:1", "worker-1": "a:1"}


def learned_on(name, task_s):
    """A cold worker that ran another model at this speed."""
    return a_worker(name, learned={"z:1": ModelTally(completed=500, busy_s=500 * task_s)})


def test_a_card_so_slow_that_it_would_end_last_gets_no_model():
    busy = a_worker("worker-1", holding="a:1", learned={"a:1": ModelTally(completed=500, busy_s=500.0)})
    slow = learned_on("worker-2", 1.0)
    slow = msgspec.structs.replace(
        slow, heartbeat=msgspec.structs.replace(slow.heartbeat, models={"a:1": ModelTally(completed=500, busy_s=10000.0)})
    )
    few = a_snapshot(workers=[busy, slow], lanes=[llm_waiting(10, "a:1")])
    assert placement.desired(few, Settings())["worker-2"].model is None
    many = a_snapshot(workers=[busy, slow], lanes=[llm_waiting(100, "a:1")])
    assert placement.desired(many, Settings())["worker-2"].model == "a:1"
