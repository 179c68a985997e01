"""What live requests wait for, in words: for ``swarm explain`` and for the client that is refused."""

from __future__ import annotations

import pytest

from swarm.config.settings import Settings
from swarm.core.explain.live import live_obstacles
from swarm.core.explain.models import explain_model, models_to_explain
from swarm.core.explain.tasks import explain_task, explain_worker
from swarm.core.lanes import Pause, Pauses
from swarm.core.task import Task, TaskClass, TaskState
from swarm.core.worker import LivePlaces, ModelTally, WorkerStatus
from tests.support.builders import (
    a_card,
    a_snapshot,
    a_worker,
    cold_workers,
    live_waiting,
    llm_waiting,
    load_claimed,
)

S = Settings()
ONE = LivePlaces(limit=1, in_flight=1)
NO_ROOM = {"a:1": ModelTally(load_failures=3, no_room=True, size_mib=30_000)}
HOT = a_worker(status=WorkerStatus.UNREADY, reason="GPU 0 is at 91 °C")
PAUSED = Pauses((Pause("model", "a:1"),))


@pytest.mark.parametrize(
    ("picture", "code", "words"),
    [
        ({"workers": cold_workers(1), "pauses": PAUSED}, "paused", "a:1 is not loaded for live requests, because model a:1"),
        ({}, "no_llm_worker", "No worker is ready for live requests."),
        ({"workers": [HOT]}, "unready", "GPU 0 is at 91 °C"),
        ({"workers": [a_worker(alive=False)]}, "dead", "worker-1 is not running"),
        (
            {"workers": [a_worker(holding="a:1", live=ONE)]},
            "live_busy",
            "worker-1; its places for live requests (1)",
        ),
        ({"workers": [a_worker(holding="a:1")]}, "live_busy", "it takes no live requests now"),
        ({"workers": cold_workers(1), "claims": [load_claimed("worker-1", "a:1")]}, "loading", "worker-1 is loading a:1"),
        ({"workers": [a_worker(learned=NO_ROOM)], "gpus": [a_card(0)]}, "fits_nowhere", "it needs 30000 MiB"),
        (
            {"workers": [a_worker(holding="b:1", held_s=3.0)], "lanes": [llm_waiting(9, "b:1")]},
            "live_turn",
            "worker-1 keeps b:1 for up to 7s more",
        ),
        ({"workers": cold_workers(1)}, "load_due", "worker-1 will load it at the brain's next tick: live requests (1) wait"),
        (
            {"workers": [a_worker(holding="b:1")], "claims": [load_claimed("worker-1", "c:1")]},
            "elsewhere",
            "worker-1: its resource task load-worker-1-c-1",
        ),
    ],
)
def test_why_a_live_request_is_not_begun(picture, code, words):
    """Whether or not the HTTP server has said already that it waits."""
    for live in ([], [live_waiting(1, "a:1")]):
        found = {r.code: r for r in live_obstacles("a:1", a_snapshot(**picture, live=live), S)}
        assert words in found[code].text
        assert found[code].next_step.startswith(("swarm ", "set options"))


def test_without_a_brain_nothing_is_loaded():
    picture = a_snapshot(workers=cold_workers(1))
    codes = [reason.code for reason in live_obstacles("a:1", picture, S, brain_alive=False)]
    assert codes == ["no_brain", "load_due"]
    loading = a_snapshot(workers=cold_workers(1), claims=[load_claimed("worker-1", "a:1")])
    assert [reason.code for reason in live_obstacles("a:1", loading, S, brain_alive=False)] == ["loading"]


def test_a_place_that_is_free_is_no_obstacle():
    free = a_worker(holding="a:1", live=LivePlaces(limit=2, in_flight=1))
    assert live_obstacles("a:1", a_snapshot(workers=[free]), S) == []


def texts(reasons):
    return {reason.code: reason.text for reason in reasons}


def test_explain_model_has_them():
    picture = a_snapshot(
        workers=[a_worker(holding="b:1", held_s=3.0)],
        lanes=[llm_waiting(9, "b:1")],
        live=[live_waiting(3, "a:1", oldest_s=4.0), live_waiting(0, "b:1", idle_s=5.0)],
    )
    found = texts(explain_model("a:1", picture, S))
    assert found["live"] == "0 live requests for a:1 under way, 3 waiting, the oldest for 4.0s."
    assert found["live_turn"].startswith("worker-1 keeps b:1 for up to 17s more")
    assert "no_demand" not in found
    assert texts(explain_model("b:1", picture, S))["live_kept"].startswith("Live requests used b:1 in the last 60s")
    assert {"a:1", "b:1"} <= models_to_explain(picture, S)


def test_explain_model_says_that_it_does_not_fit_though_only_clients_want_it():
    workers = [a_worker("worker-1", learned=NO_ROOM, gpu=0), a_worker("worker-2", gpu=1)]
    cards = [a_card(0), a_card(1, total_mib=81_920)]
    picture = a_snapshot(workers=workers, gpus=cards, live=[live_waiting(1, "a:1")])
    found = texts(explain_model("a:1", picture, S))
    assert "needs 30000 MiB, the card of worker-1 has 24576 MiB" in found["does_not_fit"]
    assert found["load_due"].startswith("worker-2 will load it")


def test_a_batch_task_that_waits_for_live_requests_says_so_and_its_worker_too():
    worker = a_worker(holding="a:1", live=LivePlaces(limit=2, in_flight=1, yielded=4))
    picture = a_snapshot(workers=[worker], lanes=[llm_waiting(9, "a:1")])
    words = (
        "worker-1 runs live requests (1 of at most 2), which go before its batch work; 4 batch requests have given way"
        " to such, no attempt used."
    )
    task = Task(task_id="t1", task_class=TaskClass.LLM, model="a:1")
    assert texts(explain_task(task, TaskState.PENDING, picture, S))["live"] == words
    keeping = a_snapshot(workers=[a_worker(holding="a:1", live=LivePlaces(limit=2, kept=1))], lanes=[llm_waiting(9, "a:1")])
    kept = texts(explain_task(task, TaskState.PENDING, keeping, S))["live"]
    assert kept.endswith("(0 of at most 2), which go before its batch work, and keeps places free for the next ones (1).")
    assert texts(explain_worker(worker, picture, S))["live"] == words


def test_a_batch_task_whose_model_has_no_card_for_live_requests_says_so():
    picture = a_snapshot(
        workers=[a_worker(holding="a:1")], lanes=[llm_waiting(9, "b:1")], live=[live_waiting(0, "a:1", in_flight=1)]
    )
    task = Task(task_id="t1", task_class=TaskClass.LLM, model="b:1")
    found = texts(explain_task(task, TaskState.PENDING, picture, S))
    assert found["placement"] == "worker-1: live requests use a:1, or did so in the last 60s."
