"""Cards for models that live requests wait for: which, when, and that nothing else is starved or thrashed for it."""

from __future__ import annotations

import itertools

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.config.settings import BrainSettings, LiveSettings, Settings
from swarm.core.lanes import Pause, Pauses
from swarm.core.live.demand import KEPT_S
from swarm.core.placement.placement import desired
from swarm.core.policy.decide import decide
from swarm.core.policy.decisions import LoadModel
from swarm.core.worker import LivePlaces, ModelTally
from tests.support.builders import (
    a_card,
    a_claim,
    a_load,
    a_snapshot,
    a_worker,
    cold_workers,
    live_waiting,
    llm_waiting,
    load_claimed,
    load_waiting,
    resource_waiting,
)
from tests.support.live_simulation import LiveWorld, Request

LOADED = {"a:1": ModelTally(loads=1, load_s=10.0), "b:1": ModelTally(loads=1, load_s=10.0)}
S = Settings()


def loads(config=S, **picture):
    return [(d.worker, d.model, d.live) for d in decide(a_snapshot(**picture), config) if isinstance(d, LoadModel)]


def held_by(*models, held_s=1000.0, live=None):
    """``worker-1`` … with these models."""
    return [
        a_worker(f"worker-{n}", holding=model, held_s=held_s, learned=LOADED, gpu=n - 1, live=live)
        for n, model in enumerate(models, 1)
    ]


def test_a_model_that_nobody_holds_is_loaded_once_before_batch_work():
    work = {"workers": cold_workers(2), "lanes": [llm_waiting(50, "b:1")]}
    assert loads(**work, live=[live_waiting(5, "a:1")]) == [("worker-1", "a:1", True), ("worker-2", "b:1", False)]
    assert loads(workers=cold_workers(4), live=[live_waiting(5, "a:1")]) == [("worker-1", "a:1", True)]


def test_its_document_says_that_it_is_live_and_its_reason_how_many_wait():
    (load,) = (
        d for d in decide(a_snapshot(workers=cold_workers(1), live=[live_waiting(3, "a:1")]), S) if isinstance(d, LoadModel)
    )
    assert load.reason == "Live requests (3) wait for a:1, which no card holds - inserting load_llm task"
    assert load.task_id.endswith("-live")


def test_it_takes_the_card_where_batch_work_loses_least():
    lanes = [llm_waiting(100, "a:1"), llm_waiting(100, "b:1")]
    cold = a_worker("worker-9")
    spare = a_worker("worker-8", holding="d:1")
    several = held_by("a:1", "b:1", "b:1")
    live = [live_waiting(1, "c:1")]
    assert loads(workers=[*several, spare, cold], lanes=lanes, live=live)[-1] == ("worker-9", "c:1", True)
    assert loads(workers=[*several, spare], lanes=lanes, live=live) == [("worker-8", "c:1", True)]
    assert loads(workers=several, lanes=lanes, live=live) == [("worker-2", "c:1", True)], "the only one of a:1 stays"
    few = [llm_waiting(3, "a:1"), llm_waiting(100, "b:1")]
    assert loads(workers=held_by("a:1", "b:1"), lanes=few, live=live) == [("worker-1", "c:1", True)], "less work is left"


def test_a_load_for_batch_work_that_nobody_has_begun_gives_way():
    lanes = [llm_waiting(50, "b:1"), load_waiting("worker-1", "b:1")]
    (load,) = (
        d
        for d in decide(a_snapshot(workers=cold_workers(1), lanes=lanes, live=[live_waiting(1, "a:1")]), S)
        if isinstance(d, LoadModel)
    )
    assert (load.model, load.live, load.instead_of) == ("a:1", True, a_load("worker-1", "b:1").task_id)
    assert loads(workers=cold_workers(1), claims=[load_claimed("worker-1", "b:1")], live=[live_waiting(1, "a:1")]) == []
    theirs = [resource_waiting("worker-1", "mine")]
    assert loads(workers=cold_workers(1), lanes=theirs, live=[live_waiting(1, "a:1")]) == [], "an operator's goes first"


def test_a_load_for_batch_work_becomes_a_live_one_once_clients_wait_for_the_same_model():
    lanes = [llm_waiting(50, "a:1"), load_waiting("worker-1", "a:1")]
    picture = {"workers": cold_workers(1), "live": [live_waiting(1, "a:1")]}
    (load,) = (d for d in decide(a_snapshot(lanes=lanes, **picture), S) if isinstance(d, LoadModel))
    assert (load.live, load.instead_of) == (True, a_load("worker-1", "a:1").task_id)
    assert loads(lanes=[llm_waiting(50, "a:1"), load_waiting("worker-1", "a:1", live=True)], **picture) == []


def test_a_load_for_a_batch_that_has_waited_past_the_limit_does_not_give_way():
    lanes = [llm_waiting(5, "b:1", unserved_s=S.brain.max_wait_s + 1), load_waiting("worker-1", "b:1")]
    assert loads(workers=held_by("a:1"), lanes=lanes, live=[live_waiting(1, "a:1", wanted_s=900.0)]) == []


def test_what_live_requests_have_just_used_is_not_taken_by_batch_work():
    picture = {"workers": held_by("a:1"), "lanes": [llm_waiting(500, "b:1")]}
    assert loads(**picture) == [("worker-1", "b:1", False)]
    assert loads(**picture, live=[live_waiting(0, "a:1", in_flight=1)]) == []
    assert loads(**picture, live=[live_waiting(0, "a:1", idle_s=KEPT_S - 1)]) == []
    assert loads(**picture, live=[live_waiting(0, "a:1", idle_s=KEPT_S)]) == [("worker-1", "b:1", False)]
    kept = desired(a_snapshot(**picture, live=[live_waiting(0, "a:1", in_flight=1)]), S)["worker-1"]
    assert kept.reason == "live requests use a:1, or did so in the last 60s"


def test_only_the_cards_that_live_requests_use_are_kept():
    workers = held_by("a:1", "a:1", "a:1")
    workers[1] = msgspec.structs.replace(
        workers[1], heartbeat=msgspec.structs.replace(workers[1].heartbeat, live=LivePlaces(limit=1, in_flight=1))
    )
    found = loads(workers=workers, lanes=[llm_waiting(500, "b:1")], live=[live_waiting(0, "a:1", in_flight=1)])
    assert found == [("worker-1", "b:1", False), ("worker-3", "b:1", False)]


def test_batch_work_that_waits_past_the_limit_takes_even_that_unless_live_may_have_all():
    starved = {"lanes": [llm_waiting(5, "b:1", unserved_s=S.brain.max_wait_s + 1)]}
    live = [live_waiting(1, "a:1", in_flight=1, wanted_s=900.0)]
    assert loads(workers=held_by("a:1"), **starved, live=live) == [("worker-1", "b:1", False)]
    assert loads(workers=held_by("a:1", "c:1"), **starved, live=live)[0][0] == "worker-2", "the others come first"
    everything = Settings(live=LiveSettings(share=1.0))
    assert loads(everything, workers=held_by("a:1"), **starved, live=live) == []
    swapping = held_by("a:1", held_s=5.0)
    assert loads(workers=swapping, **starved, live=live) == [("worker-1", "b:1", False)], (
        "however often clients' models change"
    )


@pytest.mark.parametrize(("held_s", "wanted_s", "taken"), [(9, 0, False), (10, 0, True), (99, 700, False), (100, 700, True)])
def test_batch_work_keeps_a_card_for_a_while_and_longer_where_live_requests_never_end(held_s, wanted_s, taken):
    picture = {"lanes": [llm_waiting(500, "b:1")], "live": [live_waiting(1, "a:1", wanted_s=wanted_s)]}
    assert bool(loads(workers=held_by("b:1", held_s=held_s), **picture)) == taken


def test_a_card_that_clients_get_soon_is_not_moved_for_batch_work_meanwhile():
    picture = {
        "workers": held_by("b:1", held_s=4.0),
        "claims": [a_claim(worker="worker-1", model="b:1")],
        "lanes": [llm_waiting(50, "c:1")],
    }
    assert loads(**picture) == [("worker-1", "c:1", False)]
    assert loads(**picture, live=[live_waiting(1, "a:1")]) == []
    want = desired(a_snapshot(**picture, live=[live_waiting(1, "a:1")]), S)["worker-1"]
    assert want.reason == "live requests (1) wait for a:1 and get this card in 6s"


def test_a_card_without_batch_work_is_taken_however_short_it_has_had_its_model():
    assert loads(workers=held_by("b:1", held_s=0), live=[live_waiting(1, "a:1")]) == [("worker-1", "a:1", True)]


@pytest.mark.parametrize(("held_s", "taken"), [(19, False), (20, True)])
def test_two_models_of_live_requests_take_turns_on_one_card(held_s, taken):
    live = [live_waiting(1, "a:1"), live_waiting(3, "b:1", in_flight=1)]
    assert bool(loads(workers=held_by("b:1", held_s=held_s), live=live)) == taken


def test_one_more_copy_when_requests_wait_for_long_and_a_card_is_free():
    slow = [live_waiting(3, "a:1", in_flight=1, oldest_s=11.0)]
    two = [*held_by("a:1"), a_worker("worker-2"), a_worker("worker-3")]
    assert loads(workers=two, live=slow) == [("worker-2", "a:1", True)]
    assert loads(workers=two, live=[live_waiting(3, "a:1", in_flight=1, oldest_s=9.0)]) == [], "not yet for long"
    fresh = [*held_by("a:1", held_s=5.0), a_worker("worker-2")]
    assert loads(workers=fresh, live=slow) == [], "the card that came last has had no time to serve them"
    assert loads(workers=two, claims=[load_claimed("worker-2", "a:1")], live=slow) == [], "one at a time"
    busy = held_by("a:1", "b:1")
    assert loads(workers=busy, lanes=[llm_waiting(9, "b:1")], live=slow) == [], "no card is free"
    assert loads(workers=busy, claims=[a_claim(worker="worker-2", model="b:1")], live=slow) == []
    assert loads(workers=busy, live=slow) == [("worker-2", "a:1", True)]


def test_while_batch_work_waits_for_cards_more_copies_stay_within_their_share():
    slow = [live_waiting(3, "a:1", in_flight=1, oldest_s=11.0)]
    work = {"lanes": [llm_waiting(50, "b:1")], "live": slow}
    assert loads(workers=[*held_by("a:1"), a_worker("worker-2")], **work) == [("worker-2", "b:1", False)]
    four = [*held_by("a:1"), *(a_worker(f"worker-{n}") for n in (2, 3, 4))]
    assert loads(workers=four, **work)[0] == ("worker-2", "a:1", True)
    assert [model for _, model, _ in loads(workers=four, **work)] == ["a:1", "b:1", "b:1"]


def test_a_paused_model_is_not_loaded_for_anybody():
    pauses = Pauses((Pause("model", "a:1"),))
    assert loads(workers=cold_workers(1), live=[live_waiting(1, "a:1")], pauses=pauses) == []
    two = [*held_by("a:1"), a_worker("worker-2")]
    assert loads(workers=two, live=[live_waiting(3, "a:1", oldest_s=20.0)], pauses=pauses) == []


def test_a_model_that_does_not_fit_unloads_nothing():
    big = {"a:1": ModelTally(load_failures=1, no_room=True, size_mib=30_000), "b:1": LOADED["b:1"]}
    worker = a_worker("worker-1", holding="b:1", learned=big)
    assert loads(workers=[worker], gpus=[a_card(0)], live=[live_waiting(1, "a:1")]) == []


def test_of_two_models_the_one_whose_clients_wait_longest_comes_first():
    live = [live_waiting(1, "a:1", oldest_s=1.0), live_waiting(1, "b:1", oldest_s=5.0)]
    assert loads(workers=cold_workers(1), live=live) == [("worker-1", "b:1", True)]


# -- over time ---------------------------------------------------------------------------------------------------------

HOUR_S = 3600.0
few = settings(max_examples=5, deadline=None)
gaps = st.sampled_from([3.0, 20.0, 45.0, 70.0, 100.0, 400.0, 700.0])


def asking(model, gap_s, *, seconds=1.0, until_s=HOUR_S):
    return [Request(n * gap_s, model, seconds) for n in range(int(until_s / gap_s))]


@few
@given(gaps, st.sampled_from([1.0, 10.0, 40.0]), st.sampled_from([2.0, 15.0]))
def test_batch_work_goes_on_beside_live_requests_of_another_model_on_the_only_card(gap_s, task_s, load_s):
    world = LiveWorld(asking("a:1", gap_s), batch={"b:1": 10_000}, task_s=task_s, load_s=load_s)
    world.run(HOUR_S)
    ends = [0.0, *world.done["b:1"], HOUR_S]
    longest_s = max(later - earlier for earlier, later in itertools.pairwise(ends))
    assert longest_s <= 2 * S.brain.max_wait_s, (longest_s, len(ends))


@few
@given(st.lists(gaps, min_size=2, max_size=3), st.sampled_from([0, 10_000]), st.integers(1, 2))
def test_models_that_fight_for_a_card_do_not_thrash(between_s, batch, cards):
    requests = [r for model, gap_s in zip(("a:1", "c:1", "d:1"), between_s, strict=False) for r in asking(model, gap_s)]
    world = LiveWorld(requests, batch={"b:1": batch}, cards=cards)
    world.run(HOUR_S)
    assert len(world.loads) <= cards * HOUR_S / 30 + cards, "a third of the time at most: a load takes 10 s"


def test_one_model_of_clients_that_come_and_go_loads_no_more_than_once_a_minute():
    for gap_s in (5.0, 61.0, 90.0):
        world = LiveWorld(asking("a:1", gap_s), batch={"b:1": 10_000})
        world.run(HOUR_S / 3)
        assert len(world.loads) <= 2 * HOUR_S / 3 / KEPT_S, gap_s


def test_clients_that_come_back_to_a_card_full_of_batch_work_are_served_in_time():
    world = LiveWorld(asking("a:1", 300.0), batch={"b:1": 10_000})
    world.run(500.0)
    assert not world.refused
    assert max(waited_s for _, waited_s in world.served) <= 12, "a load and a tick or two"
    assert world.done["b:1"]


def test_without_live_requests_nothing_is_kept_for_them():
    quiet = LiveWorld([], batch={"b:1": 100}, cards=2, settings=Settings(brain=BrainSettings(max_wait_s=60)))
    quiet.run(200.0)
    assert len(quiet.done["b:1"]) == 100
    assert quiet.yielded == 0
