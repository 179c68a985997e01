"""Tables of snapshot -> decisions."""

from __future__ import annotations

import pytest

from swarm.config.settings import LlmSettings, ModelSettings, Settings, WorkerSettings
from swarm.core.policy.decide import decide
from swarm.core.policy.decisions import (
    FailBlocked,
    FileDropIn,
    KillWorker,
    LoadModel,
    RecoverWorker,
    ReleaseTask,
    Warn,
    WithdrawResource,
)
from swarm.core.snapshot import BlockedView, DropIn
from swarm.core.task import ID_RE
from swarm.core.worker import ModelTally, WorkerStatus
from tests.support.builders import (
    MODEL,
    a_card,
    a_claim,
    a_snapshot,
    a_worker,
    cold_workers,
    cpu_waiting,
    llm_waiting,
    load_blocked,
    load_claimed,
    load_waiting,
    resource_waiting,
)

S = Settings()


def decided(kind, settings=S, **picture):
    return [d for d in decide(a_snapshot(**picture), settings) if isinstance(d, kind)]


def loads(settings=S, **picture):
    return [(d.worker, d.model) for d in decided(LoadModel, settings, **picture)]


def test_a_quiet_swarm_needs_nothing():
    assert decide(a_snapshot(workers=cold_workers(3)), S) == ()


def test_the_incident_every_cold_worker_gets_its_own_load():
    found = decided(LoadModel, workers=cold_workers(4), lanes=[llm_waiting(125)])
    assert [d.worker for d in found] == ["worker-1", "worker-2", "worker-3", "worker-4"]
    assert {d.model for d in found} == {MODEL}
    assert len({d.task_id for d in found}) == 4
    assert all(d.reason == "LLM tasks waiting (125) but no models loaded - inserting load_llm task" for d in found)


@pytest.mark.parametrize(("waiting", "slots", "expected"), [(1, 1, 1), (2, 1, 2), (4, 4, 1), (5, 4, 2), (100, 4, 4)])
def test_only_as_many_loads_as_the_waiting_work_justifies(waiting, slots, expected):
    assert len(loads(workers=cold_workers(4, slots=slots), lanes=[llm_waiting(waiting)])) == expected


def test_free_slots_of_a_loaded_worker_count():
    hot = a_worker("worker-0", holding=MODEL, slots=4)
    assert loads(workers=[hot, *cold_workers(2)], lanes=[llm_waiting(4)]) == []
    busy = [a_claim(f"t{n}", worker="worker-0") for n in range(4)]
    assert loads(workers=[hot, *cold_workers(2)], lanes=[llm_waiting(1)], claims=busy) == [("worker-1", MODEL)]


def test_a_pending_load_is_not_inserted_twice():
    picture = {"workers": cold_workers(1), "lanes": [llm_waiting(125), load_waiting("worker-1")]}
    assert decide(a_snapshot(**picture), S) == ()


def test_a_load_under_way_or_waiting_for_its_retry_counts():
    assert loads(workers=cold_workers(1), lanes=[llm_waiting(9)], claims=[load_claimed()]) == []
    assert loads(workers=cold_workers(1), lanes=[llm_waiting(9)], blocked=[load_blocked()]) == []


def test_a_resource_task_of_the_users_keeps_its_worker():
    assert loads(workers=cold_workers(1), lanes=[llm_waiting(9), resource_waiting("worker-1", "my-unload")]) == []


@pytest.mark.parametrize(
    "worker",
    [
        a_worker(alive=False),
        a_worker(beating=False),
        a_worker(with_server=False),
        a_worker(status=WorkerStatus.UNREADY, reason="server down"),
        a_worker(status=WorkerStatus.DRAINING),
        a_worker(status=WorkerStatus.STARTING),
        a_worker(quiet_s=20),
        a_worker(turn_quiet_s=20),
    ],
)
def test_no_load_for_a_worker_that_would_not_serve(worker):
    assert loads(workers=[worker], lanes=[llm_waiting(9)]) == []


def test_work_a_dead_worker_is_about_to_give_back_counts_as_waiting():
    dead = a_worker("worker-9", alive=False, holding=MODEL, claims=1)
    assert loads(workers=[*cold_workers(1), dead], claims=[a_claim(worker="worker-9")]) == [("worker-1", MODEL)]


def test_a_spare_worker_goes_where_the_work_is():
    hot = a_worker("worker-1", holding="other:1")
    assert loads(workers=[hot], lanes=[llm_waiting(50)]) == [("worker-1", MODEL)]
    helped = [hot, a_worker("worker-2", holding=MODEL)]
    assert loads(workers=helped, lanes=[llm_waiting(50)]) == [("worker-1", MODEL)]
    assert loads(workers=helped, lanes=[llm_waiting(5)]) == [], "the load would outlast the work"


def test_a_busy_card_is_taken_for_a_model_nobody_holds():
    busy = [a_worker(f"worker-{n}", holding="a:1") for n in (1, 2)]
    waiting = [llm_waiting(500, "a:1"), llm_waiting(3, "b:1", unserved_s=31)]
    assert loads(workers=busy, lanes=waiting) == [("worker-1", "b:1")]
    patient = [llm_waiting(500, "a:1"), llm_waiting(3, "b:1", unserved_s=5)]
    assert loads(workers=busy, lanes=patient) == []
    single = [busy[0]]
    assert loads(workers=single, lanes=waiting) == [], "a model's only card is left to it"
    starved = [llm_waiting(500, "a:1"), llm_waiting(3, "b:1", unserved_s=601)]
    assert loads(workers=single, lanes=starved) == [("worker-1", "b:1")]


def test_a_model_that_needs_more_cards_or_memory_is_refused_with_the_numbers():
    settings = Settings(models={"Big": ModelSettings(gpus_needed=2)})
    found = decided(Warn, settings, workers=cold_workers(1), lanes=[llm_waiting(3, "big")])
    assert [w.key for w in found] == ["fits-nowhere:big:latest"]
    assert "needs 2 cards and worker-1 has 1" in found[0].reason
    knows = a_worker(learned={MODEL: ModelTally(loads=1, load_s=5, size_mib=40000)})
    found = decided(Warn, workers=[knows], lanes=[llm_waiting(3)], gpus=[a_card()])
    assert "does not fit: needs 40000 MiB, the card of worker-1 has 24576 MiB" in found[0].reason
    assert loads(workers=[knows], lanes=[llm_waiting(3)], gpus=[a_card()]) == []


def test_no_card_moves_to_a_model_for_which_nothing_waits():
    """Requests for it are still at work, on a card that holds another by now, and loads take no time."""
    workers = [
        a_worker("worker-1", slots=3, claims=2),
        a_worker("worker-2", holding="b:1"),
        a_worker("worker-3", holding=MODEL, slots=2, claims=2),
        a_worker("worker-4", learned={MODEL: ModelTally(loads=1)}),
    ]
    claims = [
        a_claim(f"{worker}-{n}", worker=worker, model=m)
        for n in range(2)
        for worker, m in (("worker-1", MODEL), ("worker-3", "b:1"))
    ]
    assert loads(workers=workers, claims=claims, lanes=[llm_waiting(1)]) == [("worker-1", MODEL)]


def test_a_failing_load_pauses_on_that_worker_and_moves_to_another():
    broken = {MODEL: ModelTally(load_failures=3)}
    just = a_worker("worker-1", learned=broken, load_failed_s={MODEL: 1.0})
    assert loads(workers=[just, a_worker("worker-2")], lanes=[llm_waiting(1)]) == [("worker-2", MODEL)]
    assert "load-failed:worker-1:llama3.2:3b" in {w.key for w in decided(Warn, workers=[just], lanes=[llm_waiting(1)])}
    later = a_worker("worker-1", learned=broken, load_failed_s={MODEL: 41.0})
    assert loads(workers=[later], lanes=[llm_waiting(1)]) == [("worker-1", MODEL)]


def test_the_dead_are_recovered_also_in_grace_and_only_if_they_held_something():
    workers = [a_worker("a", alive=False, claims=2), a_worker("b", alive=False), a_worker("c", claims=1)]
    assert [d.worker for d in decided(RecoverWorker, workers=workers, grace=True)] == ["a"]


@pytest.mark.parametrize(
    ("ages", "kills", "warns"),
    [
        ({"quiet_s": 14}, 0, 0),
        ({"quiet_s": 16}, 0, 1),
        ({"quiet_s": 61}, 1, 1),
        ({"turn_quiet_s": 61}, 1, 1),
        ({"quiet_s": 61, "beating": False}, 1, 1),
        ({"quiet_s": 61, "alive": False}, 0, 0),
    ],
)
def test_hung_workers_are_warned_about_then_killed_never_in_grace(ages, kills, warns):
    workers = [a_worker(epoch=7, **ages)]
    found = decided(KillWorker, workers=workers)
    assert len(found) == kills
    assert all(k.epoch == 7 for k in found)
    assert len(decided(Warn, workers=workers)) == warns
    assert decide(a_snapshot(workers=workers, grace=True), S) == ()


def test_the_words_operators_grep_for():
    quiet = decided(Warn, workers=[a_worker(quiet_s=90)], settings=Settings(worker=WorkerSettings(heartbeat_stale_s=60)))
    assert [w.reason for w in quiet] == ["Worker worker-1 last heartbeat 90s ago (threshold: 60s)"]
    lanes = [llm_waiting(9), load_waiting("worker-1", wait_s=62), load_waiting("worker-3", wait_s=61)]
    stale = decided(Warn, workers=cold_workers(3)[::2], lanes=lanes)
    assert [w.reason for w in stale] == [
        "load_llm task available for 62s but workers ['worker-1', 'worker-3'] still have no model"
    ]


def test_waiting_work_that_nobody_can_ever_do_is_said():
    lanes = [llm_waiting(9, unserved_s=16)]
    assert [w.key for w in decided(Warn, workers=[], lanes=lanes)] == ["no-worker"]
    assert [w.key for w in decided(Warn, workers=[a_worker(with_server=False)], lanes=lanes)] == ["no-llm-worker"]
    assert decided(Warn, workers=[], lanes=[llm_waiting(9, unserved_s=1), cpu_waiting(3)]) == []


def test_unwanted_loads_are_withdrawn():
    gone = decided(WithdrawResource, workers=cold_workers(1), lanes=[load_waiting("worker-1")])
    assert len(gone) == 1
    dead = decided(WithdrawResource, workers=[a_worker(alive=False)], lanes=[llm_waiting(9), load_waiting("worker-1")])
    assert len(dead) == 1
    never = decided(WithdrawResource, workers=[a_worker(alive=False)], lanes=[resource_waiting("worker-1", "my-own")])
    assert never == []


def test_a_load_for_another_model_replaces_the_waiting_one_in_one_decision():
    found = decide(a_snapshot(workers=cold_workers(1), lanes=[llm_waiting(9, "b:1"), load_waiting("worker-1", "a:1")]), S)
    assert [(type(d), d.model, d.instead_of) for d in found] == [(LoadModel, "b:1", "load-worker-1-a-1-e1-r0")]


def test_drop_ins_are_filed_once_quiet():
    files = [DropIn(file_name="b.json", quiet_s=1), DropIn(file_name="a.json", quiet_s=0.1)]
    assert [d.file_name for d in decided(FileDropIn, drop_ins=files)] == ["b.json"]


@pytest.mark.parametrize(
    ("blocked", "expected"),
    [
        ({"due_in_s": 0.0}, ReleaseTask),
        ({"due_in_s": 3.0}, None),
        ({"waiting_for": ("x",)}, None),
        ({"session_turn": False}, None),
        ({}, ReleaseTask),
        ({"due_in_s": 3.0, "failed_dependency": "x"}, FailBlocked),
    ],
)
def test_blocked_tasks(blocked, expected):
    found = decide(a_snapshot(blocked=[BlockedView(task_id="t", attempt=2, **blocked)]), S)
    assert [type(d) for d in found] == ([expected] if expected else [])
    assert all(d.attempt == 2 for d in found)


@pytest.mark.parametrize("worker", ["w", "worker-1", "W" + "x" * 31])
@pytest.mark.parametrize("model", ["llama3.2:3b", "hf.co/bartowski/" + "Very-Long_Name." * 9 + ":q4_k_m", "a:latest"])
def test_load_ids_are_legal_and_stable(worker, model):
    picture = {"workers": [a_worker(worker, epoch=999999, resource_seq=9999999)], "lanes": [llm_waiting(1, model)]}
    first, again = decided(LoadModel, **picture), decided(LoadModel, **picture)
    assert first == again
    assert ID_RE.match(first[0].task_id)
    assert len(first[0].task_id) <= 61, "room for a number"


def test_a_busy_card_moves_where_it_ends_the_work_sooner():
    workers = [a_worker(f"a-{n}", holding="a:1") for n in range(4)] + [a_worker("b-1", holding="b:1")]
    lanes = [llm_waiting(120, "a:1"), llm_waiting(400, "b:1")]
    assert loads(workers=workers, lanes=lanes) == [("a-0", "b:1"), ("a-1", "b:1"), ("a-2", "b:1")]
    even = [llm_waiting(400, "a:1"), llm_waiting(110, "b:1")]
    assert loads(workers=workers, lanes=even) == [], "nothing gained that pays for a load"
    fresh = [a_worker(w.name, holding=w.heartbeat.model, held_s=3) for w in workers]
    assert loads(workers=fresh, lanes=lanes) == [], "a card that has just been loaded stays a while"


def test_a_card_passed_round_serves_each_model_for_a_while():
    waiting = [llm_waiting(500, "a:1"), llm_waiting(3, "b:1", unserved_s=601)]
    assert loads(workers=[a_worker(holding="a:1", held_s=200)], lanes=waiting) == []
    assert loads(workers=[a_worker(holding="a:1", held_s=301)], lanes=waiting) == [("worker-1", "b:1")]


def test_of_very_many_models_on_one_card_each_is_served_for_as_long_as_its_load_takes():
    learned = {f"m{n}:1": ModelTally(loads=1, load_s=30.0) for n in range(100)}
    waiting = [llm_waiting(500, "a:1"), *(llm_waiting(3, model, unserved_s=601) for model in learned)]
    turns = [loads(workers=[a_worker(holding="a:1", held_s=s, learned=learned)], lanes=waiting) for s in (20, 31)]
    assert turns == [[], [("worker-1", "m0:1")]]


@pytest.mark.parametrize(("missing", "unserved_s", "turns"), [(False, 100, 4), (False, 601, 4), (True, 601, 1)])
def test_a_model_that_loads_nowhere_does_not_unload_all_cards_again_and_again(missing, unserved_s, turns):
    """One that is missing unloads none: that is seen before."""
    learned = {"b:1": ModelTally(load_failures=9, missing=missing)}
    failed = [a_worker(f"worker-{n}", learned=learned, load_failed_s={"b:1": 1.0}) for n in (1, 2)]
    waiting = [llm_waiting(5000, "a:1"), llm_waiting(1, "b:1", unserved_s=unserved_s)]
    taken = []
    for held_s in (300 * turns - 1, 300 * turns + 1):
        busy = [a_worker(f"worker-{n}", holding="a:1", held_s=held_s, gpu=n) for n in (3, 4)]
        taken += [load for load in loads(workers=[*failed, *busy], lanes=waiting) if load[1] == "b:1"]
    assert taken == [("worker-3", "b:1")]


def test_what_one_move_leaves_open_is_closed_in_the_same_turn():
    """Cards move from a to b; that leaves a short of slots, which a cold worker that b is refused on can give."""
    refuses_b = a_worker("c-1", learned={"b:1": ModelTally(load_failures=1)}, load_failed_s={"b:1": 1.0})
    idle = [a_worker(name, holding="a:1") for name in ("a-1", "a-2")]
    workers = [*idle, refuses_b, a_worker("b-1", holding="b:1")]
    lanes = [llm_waiting(2, "a:1"), llm_waiting(400, "b:1")]
    assert sorted(loads(workers=workers, lanes=lanes)) == [("a-1", "b:1"), ("a-2", "b:1"), ("c-1", "a:1")]


@pytest.mark.parametrize(("worker", "count"), [(a_worker(epoch=1), 0), (a_worker(epoch=2), 1), (a_worker(alive=False), 1)])
def test_a_paused_load_of_an_earlier_life_is_withdrawn(worker, count):
    """Else the new life would stay cold for as long as the pause after the crash lasts."""
    paused = load_blocked(due_in_s=200.0)
    assert len(decided(WithdrawResource, workers=[worker], lanes=[llm_waiting(9)], blocked=[paused])) == count


def test_a_model_that_found_no_room_is_tried_on_no_card_of_that_size_and_costs_no_hot_model():
    spilled = ModelTally(load_failures=1, no_room=True, size_mib=24000, size_vram_mib=23000)
    tried = a_worker("worker-1", learned={MODEL: spilled}, load_failed_s={MODEL: 1e6}, holding="a:1", gpu=0)
    hot = a_worker("worker-2", holding="a:1", gpu=1)
    picture = {"lanes": [llm_waiting(500, unserved_s=1e6)], "gpus": [a_card(0), a_card(1), a_card(2, total_mib=80000)]}
    assert loads(workers=[tried, hot], **picture) == []
    bigger = a_worker("worker-3", gpu=2)
    assert loads(workers=[tried, hot, bigger], **picture) == [("worker-3", MODEL)]
    assert not decided(Warn, workers=[tried, hot, bigger], **picture), "it has a place, so nobody need act"
    (warned,) = decided(Warn, workers=[tried, hot], **picture)
    assert warned.key == f"fits-nowhere:{MODEL}"
    for words in (
        "does not fit: needs 24000 MiB, the card of worker-1 has 24576 MiB",
        "num_ctx",
        "gpus_needed",
        "quantization",
    ):
        assert words in warned.reason
    assert f'[models."{MODEL}"]' in warned.reason


def test_a_model_of_which_nobody_knows_what_it_takes_costs_one_hot_card_at_a_time():
    hot = [a_worker(f"worker-{n}", holding="a:1", gpu=n, held_s=1e6) for n in range(3)]
    fresh = llm_waiting(500, unserved_s=1e6)
    assert loads(workers=hot, lanes=[fresh]) == [("worker-0", MODEL)]
    trying = [fresh, load_waiting("worker-0")]
    assert loads(workers=hot, lanes=trying) == [], "the first is still on its way"
    known = {MODEL: ModelTally(loads=1, load_s=1.0, size_mib=3000)}
    learned = [a_worker("worker-0", holding=MODEL, gpu=0, learned=known), *hot[1:]]
    assert loads(workers=learned, lanes=[fresh]) == [("worker-1", MODEL), ("worker-2", MODEL)]
    assert len(loads(workers=cold_workers(3), lanes=[fresh])) == 3, "cold cards have nothing to lose"


def test_a_model_that_no_server_has_is_one_alarm_and_none_when_nobody_wants_it_any_more():
    gone = {MODEL: ModelTally(load_failures=2, missing=True)}
    workers = [a_worker(f"worker-{n}", gpu=n, learned=gone, load_failed_s={MODEL: 1.0}) for n in (1, 2)]
    (warned,) = decided(Warn, workers=workers, lanes=[llm_waiting(3)])
    assert (warned.key, warned.reason) == (f"model-missing:{MODEL}", f"3 tasks wait for {MODEL}, which no server has")
    assert not decided(Warn, workers=workers)
    one_has_it = [workers[0], a_worker("worker-2", gpu=2, holding=MODEL)]
    assert not decided(Warn, workers=one_has_it, lanes=[llm_waiting(3)])


def test_loads_that_fail_on_every_worker_are_told_as_such_while_somebody_waits():
    broken = {MODEL: ModelTally(load_failures=3)}
    workers = [a_worker(f"worker-{n}", gpu=n, learned=broken, load_failed_s={MODEL: 1.0}) for n in (1, 2)]
    keys = {w.key for w in decided(Warn, workers=workers, lanes=[llm_waiting(1)], gpus=[a_card(1), a_card(2)])}
    assert keys == {f"load-failed:worker-1:{MODEL}", f"load-failed:worker-2:{MODEL}"}, "it may fit well"
    assert not decided(Warn, workers=workers)


def test_a_load_for_which_there_turned_out_to_be_no_room_is_withdrawn_elsewhere():
    big = ModelTally(load_failures=1, no_room=True, size_mib=40000)
    tried = a_worker("worker-1", learned={MODEL: big}, load_failed_s={MODEL: 1.0})
    picture = {"lanes": [llm_waiting(9), load_waiting("worker-2")], "gpus": [a_card(0), a_card(1)]}
    (gone,) = decided(WithdrawResource, workers=[tried, a_worker("worker-2", gpu=1)], **picture)
    assert gone.worker == "worker-2"
    assert "cannot be given" in gone.reason


def test_who_found_no_room_although_the_size_would_fit_tries_again_while_it_is_cold():
    """Another program may have held the memory: that heals by itself."""
    spilled = {MODEL: ModelTally(load_failures=1, no_room=True, size_mib=3000)}
    picture = {"lanes": [llm_waiting(9)], "gpus": [a_card(0), a_card(1)]}
    other = a_worker("worker-2", gpu=1)
    for failed_s, expected in ((1.0, []), (11.0, [("worker-1", MODEL)])):
        tried = a_worker("worker-1", learned=spilled, load_failed_s={MODEL: failed_s})
        assert loads(workers=[tried, other], **picture) == expected
    too_big = {MODEL: ModelTally(load_failures=1, no_room=True, size_mib=30000)}
    tried = a_worker("worker-1", learned=too_big, load_failed_s={MODEL: 1e6})
    assert loads(workers=[tried, other], **picture) == []


def test_where_spilling_is_allowed_size_alone_refuses_nothing():
    knows = a_worker(learned={MODEL: ModelTally(loads=1, load_s=5, size_mib=40000)})
    allowed = Settings(llm=LlmSettings(on_cpu_spill="allow"))
    assert loads(allowed, workers=[knows], lanes=[llm_waiting(3)], gpus=[a_card()]) == [("worker-1", MODEL)]
