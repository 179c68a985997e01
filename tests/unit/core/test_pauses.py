"""Pauses: what they keep from being begun, in claiming, placement and explanations; and what is stopped or mapped."""

import logging

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.config.settings import Settings
from swarm.core.explain.tasks import explain_task, explain_worker
from swarm.core.lanes import Pause, Pauses
from swarm.core.policy.alarms import alarms
from swarm.core.policy.decide import decide
from swarm.core.policy.decisions import AdvanceMap, LoadModel, ReleaseTask, StopBatch
from swarm.core.snapshot import BatchOverLimit, BlockedView
from swarm.core.task import Task, TaskClass, TaskState
from swarm.errors import StorageFault
from tests.helpers.worker_fakes import Harness, Probe, cpu, holds, llm
from tests.support.builders import MODEL, a_snapshot, cold_workers, llm_waiting

S = Settings()
ANY = st.builds(
    Pause, st.sampled_from(["all", "model", "batch", "worker"]), st.sampled_from(["", "m:latest", "w", "b"]), st.just("")
)


@given(st.lists(ANY), ANY)
def test_a_pause_stands_until_it_is_ended(before, one):
    pauses = Pauses()
    for pause in before:
        pauses = pauses.with_one(pause)
    assert pauses.with_one(one).find(one.kind, one.name) is not None
    assert pauses.with_one(one).without(one.kind, one.name).find(one.kind, one.name) is None
    assert pauses.without("all") == Pauses()
    assert len(pauses.pauses) == len({(p.kind, p.name) for p in before})


def a_worker(*pauses):
    """With a model, three requests and a program to run, and these pauses."""
    swarm = Harness(probe=Probe(holds("m:latest"))).warm()
    swarm.work.gate.clear()
    swarm.queue.paused = Pauses(pauses)
    swarm.queue.put(
        llm("a", "m", batch_id="b-1"), llm("b", "m", batch_id="b-1"), llm("c", "m", batch_id="b-2"), cpu("p", "x")
    )
    return swarm


@pytest.mark.parametrize(
    ("pauses", "claimed", "aside"),
    [
        ([], "a", []),
        ([Pause("worker", "other")], "a", []),
        ([Pause("worker", "worker-1")], None, []),
        ([Pause("all")], None, []),
        ([Pause("model", "m:latest")], "p", []),
        ([Pause("batch", "b-1")], "c", ["a", "b"]),
    ],
)
def test_a_worker_begins_nothing_that_is_paused(pauses, claimed, aside, caplog):
    with caplog.at_level(logging.INFO):
        swarm = a_worker(*pauses)
        for _ in range(2):
            swarm.turn()
    assert [one.claim.task.task_id for one in swarm.worker.slots.runs][:1] == ([] if claimed is None else [claimed])
    assert swarm.queue.on_hold == aside
    if claimed is None:
        assert swarm.state.reason.startswith("paused: ")
        assert caplog.text.count("Paused: ") == 1, "said once"


def test_what_is_paused_is_put_aside_also_when_the_disk_refuses_a_look(monkeypatch):
    def refuse():
        raise StorageFault("input/output error")

    swarm = a_worker(Pause("batch", "b-1"), Pause("batch", "b-2"))
    monkeypatch.setattr(swarm.queue, "waiting", refuse)
    swarm.queue.pending.pop("cpu")
    swarm.turn()
    assert swarm.worker.slots.runs == ()
    assert swarm.queue.on_hold == ["a", "b", "c"]


@pytest.mark.parametrize("pause", [Pause("all"), Pause("model", MODEL), Pause("worker", "worker-1")], ids=str)
def test_nothing_is_loaded_for_what_is_paused_and_it_is_shown(pause):
    picture = a_snapshot(workers=cold_workers(1), lanes=[llm_waiting(3)])
    assert any(isinstance(d, LoadModel) for d in decide(picture, S))
    paused = msgspec.structs.replace(picture, pauses=Pauses((pause,)))
    assert not any(isinstance(d, LoadModel) for d in decide(paused, S))
    assert any(pause.way_out in warning.reason for warning in alarms(paused, S))
    if pause.kind == "worker":
        (reason,) = explain_worker(paused.workers[0], paused, S)
    else:
        task = Task(task_id="t3", task_class=TaskClass.LLM, model=MODEL)
        (reason,) = explain_task(task, TaskState.PENDING, paused, S)
    assert (reason.code, reason.next_step) == ("paused", pause.way_out)


def test_a_paused_batch_keeps_what_is_blocked_there():
    view = BlockedView(task_id="t", attempt=0, batch_paused="b-1")
    assert decide(a_snapshot(blocked=[view]), S) == ()
    assert isinstance(decide(a_snapshot(blocked=[BlockedView(task_id="t", attempt=0)]), S)[0], ReleaseTask)


def test_a_mapped_task_is_advanced_and_a_hopeless_batch_stopped():
    view = BlockedView(task_id="t", attempt=0, step="expand")
    over_limit = (BatchOverLimit(batch_id="b-1", failed=3, max_fails=2),)
    advance, stop = decide(msgspec.structs.replace(a_snapshot(blocked=[view]), over_limit=over_limit), S)
    assert advance == AdvanceMap(task_id="t", attempt=0, step="expand", reason="the list to map over is complete")
    assert stop == StopBatch(batch_id="b-1", reason="3 tasks of batch b-1 have failed; its limit is 2")
