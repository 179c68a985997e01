"""Every place a task can be in, and every way a worker can idle, has its reason."""

from __future__ import annotations

import msgspec
import pytest

from swarm.config.settings import Settings
from swarm.core.explain.tasks import explain_task, explain_worker
from swarm.core.lanes import Pause, Pauses
from swarm.core.policy.alarms import alarms
from swarm.core.snapshot import BlockedView
from swarm.core.task import Attempt, Task, TaskClass, TaskError, TaskState, Trail
from swarm.core.worker import ModelTally, TunedSlots, WorkerStatus
from tests.support.builders import (
    MODEL,
    a_card,
    a_claim,
    a_load,
    a_snapshot,
    a_worker,
    cold_workers,
    cpu_waiting,
    llm_waiting,
    load_blocked,
    load_claimed,
    load_waiting,
)

S = Settings()
LLM = Task(task_id="t3", task_class=TaskClass.LLM, model=MODEL)
CPU = Task(task_id="c1", task_class=TaskClass.CPU)
LOAD = Task(task_id="l1", task_class=TaskClass.RESOURCE, target_worker="worker-1", model=MODEL, action="load_llm")
HOT = a_worker(holding=MODEL)
PAUSED = Pauses((Pause("worker", "worker-1"),))
LOAD_ID = a_load("worker-1").task_id


@pytest.mark.parametrize(
    ("task", "picture", "code", "words"),
    [
        (LLM, {}, "no_worker", "No worker is running"),
        (LLM, {"workers": [a_worker(with_server=False)]}, "no_llm_worker", "ready for llm"),
        (LLM, {"workers": [a_worker(status=WorkerStatus.UNREADY, reason="spilled")]}, "no_llm_worker", "ready"),
        (LLM, {"workers": cold_workers(1)}, "not_loaded", "none of them is loading"),
        (LLM, {"workers": cold_workers(1), "lanes": [load_waiting("worker-1")]}, "load_waiting", LOAD_ID),
        (
            LLM,
            {"workers": cold_workers(1), "claims": [a_claim(LOAD_ID, task_class="resource")]},
            "loading",
            "worker-1 is loading llama3.2:3b",
        ),
        (
            LLM,
            {"workers": cold_workers(1), "blocked": [load_blocked(due_in_s=9)]},
            "load_retry",
            "could not load",
        ),
        (LLM, {"workers": [HOT], "claims": [a_claim()]}, "slots_busy", "whose slots are busy"),
        (CPU, {"workers": [a_worker(with_server=False)]}, "soon", "worker-1 is free"),
        (CPU, {"workers": [HOT], "claims": [a_claim()]}, "slots_busy", "busy"),
        (
            CPU,
            {"workers": cold_workers(1), "pauses": PAUSED},
            "paused",
            "worker-1 takes no new work: worker worker-1 is paused",
        ),
        (CPU, {"workers": cold_workers(2), "pauses": PAUSED}, "soon", "worker-2 is free"),
        (
            CPU,
            {"workers": [a_worker(alive=False), a_worker("worker-2", quiet_s=20)]},
            "stale",
            "Worker worker-2 last heartbeat",
        ),
        (LOAD, {"workers": [a_worker("worker-2")]}, "no_such_worker", "worker-1 is not registered"),
        (LOAD, {"workers": [a_worker(), a_worker("worker-2", alive=False)]}, "target_busy", "Only worker-1"),
        (LOAD, {"workers": [a_worker(alive=False), a_worker("worker-2")]}, "dead", "process lock is free"),
    ],
)
def test_why_a_pending_task_waits(task, picture, code, words):
    lanes = [llm_waiting(8), *picture.pop("lanes", ())] if task is LLM else picture.pop("lanes", ())
    reasons = explain_task(task, TaskState.PENDING, a_snapshot(lanes=lanes, **picture), S)
    assert reasons[0].code == code
    assert words in reasons[0].text


def test_a_pending_task_whose_model_cannot_be_loaded_says_why():
    broken = a_worker(learned={MODEL: ModelTally(load_failures=2)}, load_failed_s={MODEL: 1.0})
    reasons = explain_task(LLM, TaskState.PENDING, a_snapshot(workers=[broken], lanes=[llm_waiting(8)]), S)
    assert [r.code for r in reasons] == ["not_loaded", "misfit", "placement"]
    assert "failed to load llama3.2:3b 2x" in reasons[1].text


def test_a_pending_task_whose_model_is_only_where_nothing_is_claimed_says_why():
    workers = [HOT, a_worker("worker-2", holding="b:1", gpu=1)]
    picture = a_snapshot(workers=workers, lanes=[llm_waiting(8), llm_waiting(500, "b:1")], pauses=PAUSED)
    found = explain_task(LLM, TaskState.PENDING, picture, S)
    assert [(r.code, r.next_step) for r in found[:2]] == [
        ("not_loaded", "swarm workers"),
        ("paused", "swarm queue resume --worker worker-1"),
    ]


def test_a_pending_task_whose_model_fits_nowhere_has_the_numbers_and_what_to_do():
    big = ModelTally(load_failures=1, no_room=True, size_mib=40000)
    workers = [a_worker(learned={MODEL: big}), a_worker("worker-2", gpu=1, holding="a:1")]
    picture = a_snapshot(workers=workers, lanes=[llm_waiting(8)], gpus=[a_card(0), a_card(1)])
    reasons = [r for r in explain_task(LLM, TaskState.PENDING, picture, S) if r.code == "does_not_fit"]
    assert [r.text for r in reasons] == [
        f"{MODEL} does not fit: needs 40000 MiB, the card of {name} has 24576 MiB." for name in ("worker-1", "worker-2")
    ]
    assert f'[models."{MODEL}"]' in reasons[0].next_step
    assert "gpus_needed" in reasons[0].next_step


def test_without_a_brain_that_comes_first():
    reasons = explain_task(LLM, TaskState.PENDING, a_snapshot(workers=cold_workers(1)), S, brain_alive=False)
    assert reasons[0].code == "no_brain"


@pytest.mark.parametrize(
    ("blocked", "words"),
    [
        ({"waiting_for": ("a", "b")}, "It waits for task a and 1 more to complete."),
        ({"session_turn": False}, "It waits for an earlier task of its session to end."),
        ({"due_in_s": 9.0}, "It waits until its time comes in 9s."),
        ({"failed_dependency": "a"}, "Its dependency a failed."),
        ({}, "It is due and will be released at the brain's next tick."),
    ],
)
def test_why_a_blocked_task_waits(blocked, words):
    picture = a_snapshot(blocked=[BlockedView(task_id="t3", attempt=1, **blocked)])
    assert explain_task(LLM, TaskState.BLOCKED, picture, S)[0].text == words


def test_a_retry_names_the_error_before():
    failed = Attempt(attempt=1, worker="worker-1", outcome="failed", error=TaskError("timeout", "no token for 120 s"))
    picture = a_snapshot(blocked=[BlockedView(task_id="t3", attempt=1, due_in_s=2.0)])
    reasons = explain_task(LLM, TaskState.BLOCKED, picture, S, trail=Trail(attempts=(failed,), retry_at="2026-02-07"))
    assert "no token for 120 s" in reasons[1].text


@pytest.mark.parametrize(
    ("fault", "alone", "words"),
    [
        (
            "poison",
            False,
            "broke the server of worker-1 (garbage: no JSON); retried behind others, elsewhere if possible.",
        ),
        ("poison", True, "retried behind others, alone on its server, elsewhere if possible."),
        (
            "suspect",
            True,
            "suspected of having broken the server of worker-1 (garbage: no JSON); retried behind others",
        ),
    ],
)
@pytest.mark.parametrize("state", [TaskState.BLOCKED, TaskState.PENDING])
def test_what_broke_a_server_waits_with_that_reason(state, fault, alone, words):
    error = TaskError("garbage", "no JSON")
    failed = Attempt(attempt=1, worker="worker-1", outcome="retried", fault=fault, alone=alone, error=error)
    picture = a_snapshot(blocked=[BlockedView(task_id="t3", attempt=1, due_in_s=2.0)], workers=[HOT])
    reasons = explain_task(LLM, state, picture, S, trail=Trail(attempts=(failed,), retry_at="2026-02-07"))
    assert reasons[-1].code == fault
    assert words in reasons[-1].text
    assert reasons[0].code in ("blocked", "slots_busy"), "until when, or behind what, comes first"


SPILLED = f"{MODEL} is not wholly on its card: size 900 MiB, on GPU 500 MiB"


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"refused": {MODEL: SPILLED}}, f"worker-1 holds {MODEL}, but that does not count: {SPILLED}."),
        (
            {"learned": {MODEL: ModelTally(load_failures=1, size_mib=900, size_vram_mib=500)}},
            f"worker-1 loaded {MODEL}, and it spilled to the CPU: 500 of its 900 MiB were on the card.",
        ),
    ],
    ids=["there now", "at the last load"],
)
def test_a_spilled_model_is_named_by_its_tasks_and_by_the_worker(how, words):
    cold = a_worker(**how)
    picture = a_snapshot(workers=[cold], lanes=[llm_waiting(8)])
    for reasons in (explain_task(LLM, TaskState.PENDING, picture, S), explain_worker(cold, picture, S)):
        (found,) = [reason for reason in reasons if reason.code == "spilled"]
        assert words in found.text
        assert "num_ctx" in found.next_step


def test_a_server_whose_broken_requests_succeed_elsewhere_is_told():
    def told(cleared, done):
        workers = [a_worker(completed=done), a_worker("worker-2", cleared={"worker-1": cleared})]
        return [one.reason for one in alarms(a_snapshot(workers=workers), S)]

    assert told(3, 5) == ["3 requests that broke the server of worker-1 succeeded elsewhere: it may break under load"]
    assert told(2, 0) == []
    assert told(3, 1000) == [], "bad luck now and then"


@pytest.mark.parametrize(
    ("worker", "claim", "codes"),
    [
        (HOT, a_claim("t3"), ["running"]),
        (HOT, a_claim("t3", quiet_s=301), ["stuck"]),
        (a_worker(alive=False), a_claim("t3"), ["owner_dead"]),
        (a_worker(quiet_s=20), a_claim("t3"), ["running", "stale"]),
    ],
)
def test_what_happens_to_a_task_in_flight(worker, claim, codes):
    reasons = explain_task(LLM, TaskState.PROCESSING, a_snapshot(workers=[worker], claims=[claim]), S)
    assert [r.code for r in reasons] == codes


def test_the_last_word_on_ended_tasks():
    trail = Trail(status="failed", error=TaskError("exit_code", "exit code 3"))
    assert "exit code 3" in explain_task(LLM, TaskState.FAILED, a_snapshot(), S, trail=trail)[0].text
    for state in (TaskState.COMPLETED, TaskState.CANCELLED, TaskState.CORRUPT):
        assert explain_task(LLM, state, a_snapshot(), S)[0].code == str(state)


@pytest.mark.parametrize(
    ("worker", "picture", "codes"),
    [
        (a_worker(alive=False), {}, ["dead"]),
        (a_worker(alive=False, status=WorkerStatus.STOPPED), {}, ["stopped"]),
        (a_worker(beating=False), {}, ["silent"]),
        (a_worker(quiet_s=20), {}, ["stale"]),
        (a_worker(status=WorkerStatus.UNREADY, reason="server down"), {}, ["unready"]),
        (a_worker(), {}, ["cold", "queue_empty"]),
        (a_worker(), {"lanes": [llm_waiting(9)]}, ["load_due", "other_lanes"]),
        (a_worker(), {"lanes": [llm_waiting(9), load_waiting("worker-1")]}, ["load_waiting", "soon"]),
        (HOT, {}, ["hot_idle", "queue_empty"]),
        (HOT, {"lanes": [llm_waiting(9)]}, ["hot_idle", "soon"]),
        (HOT, {"lanes": [llm_waiting(99, "b:1")]}, ["load_due", "other_lanes"]),
        (HOT, {"lanes": [llm_waiting(9)], "claims": [a_claim()]}, ["running"]),
        (a_worker(), {"claims": [load_claimed()]}, ["loading", "running"]),
        (a_worker(with_server=False), {"lanes": [cpu_waiting(1)]}, ["no_server", "soon"]),
        (a_worker(with_server=False), {"lanes": [llm_waiting(9)]}, ["no_server", "other_lanes"]),
    ],
)
def test_why_a_worker_idles(worker, picture, codes):
    reasons = explain_worker(worker, a_snapshot(workers=[worker], **picture), S)
    assert [r.code for r in reasons] == codes
    assert all(r.text.endswith(".") for r in reasons)


@pytest.mark.parametrize(
    ("tuned", "said"),
    [
        (TunedSlots(why="8 slots: 310 tokens/s; 16 gave 316"), "a:latest: 8 slots: 310 tokens/s; 16 gave 316."),
        (
            TunedSlots(
                engine="ollama",
                capacity=1,
                why="1 slot: 90 tokens/s; Ollama loads embedding models for one request at a time",
            ),
            'llama-server, where it is installed, runs more: [models."a:latest"] engine = "llama-server".',
        ),
    ],
)
def test_a_worker_tells_how_many_requests_it_runs_at_once_and_why(tuned, said):
    view = a_worker("worker-1", holding="a:latest")
    view = msgspec.structs.replace(view, heartbeat=msgspec.structs.replace(view.heartbeat, tuned={"a:latest": tuned}))
    picture = a_snapshot(workers=[view])
    reason = explain_worker(view, picture, S)[-1]
    assert reason.code == "slots"
    assert said in reason.text
    other = msgspec.structs.replace(view.heartbeat, model="b:latest")
    assert explain_worker(msgspec.structs.replace(view, heartbeat=other), picture, S)[-1].code != "slots"
