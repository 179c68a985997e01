"""``swarm explain MODEL``: each worker's part in where a model is, or is not."""

from __future__ import annotations

import msgspec

from swarm.config.settings import ModelSettings, Settings
from swarm.core.explain.models import explain_model, models_to_explain
from swarm.core.lanes import Pause, Pauses
from swarm.core.snapshot import BlockedView
from swarm.core.worker import ModelTally, WorkerStatus
from tests.support.builders import a_card, a_snapshot, a_worker, cold_workers, llm_waiting, load_waiting

replace = msgspec.structs.replace
BIG, SMALL = "qwen2.5:32b", "llama3.2:1b"


def reasons(model, snapshot, settings=None, **more):
    return {r.code: r.text for r in explain_model(model, snapshot, settings or Settings(), **more)}


def test_the_demand_comes_first_with_its_numbers():
    learned = {SMALL: ModelTally(completed=10, busy_s=20.0, loads=2, load_s=10.0)}
    picture = a_snapshot(workers=[a_worker(holding=SMALL, learned=learned)], lanes=[llm_waiting(30, SMALL)])
    first, second = explain_model(SMALL, picture, Settings())
    assert first.text == (f"30 tasks wait for {SMALL} and 0 run: about 60s of one slot (2s a task); a load takes about 5s.")
    assert (second.code, second.text) == ("loaded", f"worker-1 holds it: 30 tasks wait for its model {SMALL}.")


def test_why_it_is_not_on_each_of_the_others():
    learned = {BIG: ModelTally(size_mib=40_000)}
    workers = [
        a_worker("worker-1", holding=BIG, gpu=0, learned=learned),
        a_worker("worker-2", gpu=1),
        a_worker("worker-3", gpu=2, status=WorkerStatus.UNREADY, reason="GPU 2 is at 91 °C"),
        a_worker("worker-4", gpu=3, alive=False),
    ]
    cards = [a_card(0, total_mib=81_920), a_card(1), a_card(2), a_card(3)]
    found = reasons(BIG, a_snapshot(workers=workers, lanes=[llm_waiting(100, BIG)], gpus=cards))
    assert found["does_not_fit"] == (
        f"Not on worker-2: {BIG} does not fit: needs 40000 MiB, the card of worker-2 has 24576 MiB."
    )
    assert "GPU 2 is at 91 °C" in found["unready"]
    assert found["dead"].startswith("Not on worker-4: worker-4 is not running")


def test_a_card_that_holds_it_and_serves_nobody_says_why():
    paused = Pauses((Pause("worker", "worker-1"),))
    picture = a_snapshot(workers=[a_worker(holding=SMALL)], lanes=[llm_waiting(9, SMALL)], pauses=paused)
    assert reasons(SMALL, picture)["paused"] == (
        "worker-1 holds it, but that serves nobody: worker-1 takes no new work: worker worker-1 is paused."
    )


def test_a_load_that_is_due_under_way_or_for_another_model():
    picture = a_snapshot(workers=cold_workers(2), lanes=[llm_waiting(100, SMALL)])
    assert "will load it at the brain's next tick" in reasons(SMALL, picture)["load_due"]
    loading = a_snapshot(workers=cold_workers(1), lanes=[llm_waiting(1, SMALL), load_waiting("worker-1", SMALL)])
    assert reasons(SMALL, loading)["loading"] == "worker-1 is loading it, or about to."
    busy = a_snapshot(workers=[a_worker(holding=SMALL)], lanes=[llm_waiting(100, SMALL)])
    assert reasons(BIG, busy)["elsewhere"] == f"Not on worker-1: 100 tasks wait for its model {SMALL}."


def test_a_model_nobody_has_says_how_to_get_it():
    found = {r.code: r for r in explain_model("nosuch:1b", a_snapshot(), Settings(), installed_on=())}
    assert found["not_installed"].next_step == "swarm models pull nosuch:1b"
    assert found["no_worker"].next_step == "swarm up"


def test_configured_models_are_known():
    settings = Settings(models={"Mixtral": ModelSettings()})
    picture = a_snapshot(lanes=[llm_waiting(1, SMALL)])
    assert models_to_explain(picture, settings) == {SMALL, "mixtral:latest"}


def test_what_is_paused_or_not_due_is_named_and_how_to_go_on():
    blocked = [
        BlockedView(task_id="t1", attempt=0, model=SMALL, due_in_s=34.4),
        BlockedView(task_id="t2", attempt=1, model=SMALL, due_in_s=90.0),
        BlockedView(task_id="t3", attempt=0, model=SMALL, waiting_for=("t1",)),
        BlockedView(task_id="t4", attempt=0, model=SMALL, session_turn=False),
        BlockedView(task_id="t5", attempt=0, model=SMALL, batch_paused="b-1"),
        BlockedView(task_id="t6", attempt=0, model=BIG, due_in_s=1.0),
    ]
    picture = a_snapshot(workers=[a_worker()], lanes=[llm_waiting(7, SMALL)], blocked=blocked)
    paused = replace(picture, pauses=Pauses((Pause("model", SMALL, "noon"),)))
    found = [(r.code, r.text, r.next_step) for r in explain_model(SMALL, paused, Settings())]
    look = f"swarm queue list blocked --model {SMALL}"
    assert found[:5] == [
        (
            "paused",
            f"7 tasks wait for {SMALL} and are not started, because model {SMALL} is paused since noon.",
            f"swarm queue resume --model {SMALL}",
        ),
        (
            "paused",
            f"1 more tasks for {SMALL} are held back, because batch b-1 is paused.",
            "swarm queue resume --batch b-1",
        ),
        ("delayed", f"2 more tasks for {SMALL} wait until their time comes, the first in 34s.", look),
        ("blocked", f"1 more tasks for {SMALL} wait for other tasks to complete.", look),
        ("blocked", f"1 more tasks for {SMALL} wait for earlier ones of their sessions to end.", look),
    ]
    assert not any(code == "no_demand" for code, _, _ in found)
    first, second, *_ = explain_model(SMALL, picture, Settings())
    assert (first.code, second.code) == ("demand", "paused"), "what can be begun comes first"
    assert SMALL in models_to_explain(a_snapshot(blocked=blocked), Settings())
