"""Whether live requests are let in while something waits that they would keep waiting."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from swarm.core.placement.demand import load_document
from swarm.core.task import Claim, Task, TaskClass
from swarm.worker.attempt import Run
from swarm.worker.live.live_terms import ALONE_AFTER_S, live_terms

WELL = SimpleNamespace(cards=SimpleNamespace(reason=""), unready="", closed=lambda *, in_flight: "")


def run(task, *, live=False, begun=True, waited_s=0.0):
    made = Run(Claim(task=task, attempt=1, worker="worker-1", path="", body_size=0), limit_s=600, live=live)
    if begun:
        made.begin()
    made.started_s -= waited_s
    return made


def request(**more):
    return run(Task(task_id="t", task_class=TaskClass.LLM, model="a:1"), **more)


def load(*, live=False, **more):
    document = load_document("worker-1", "b:1", 1, live=live)
    task = Task(
        task_id="load",
        task_class=TaskClass.RESOURCE,
        action="load_llm",
        model="b:1",
        target_worker="worker-1",
        metadata=document["metadata"],
    )
    return run(task, **more)


LATE_S = ALONE_AFTER_S + 1


@pytest.mark.parametrize(
    ("make", "let_in"),
    [
        (lambda: [request(live=True), request()], True),
        (lambda: [load()], False),
        (lambda: [request(live=True), load(live=True, begun=False)], False),
        (lambda: [request(live=True), load(begun=False, waited_s=-60.0)], True),
        (lambda: [request(live=True), load(begun=False, waited_s=LATE_S)], False),
        (lambda: [request(live=True), request(), load(begun=False, waited_s=LATE_S)], True),
    ],
)
def test_a_load_for_batch_work_does_not_wait_for_live_requests_for_ever(make, let_in):
    slots = SimpleNamespace(runs=tuple(make()))
    terms = live_terms("a:1", (4, 4), slots, WELL, "", stopping=False)
    assert terms.refusal is None
    assert (terms.passing is None) == let_in
    assert let_in or (terms.passing.kind, terms.passing.message) == ("model_not_loaded", "loading b:1")
