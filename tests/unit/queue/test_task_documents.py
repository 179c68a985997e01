"""What claims and waiting loads are is told by their documents, each read once; their ids are only keys."""

import os

import pytest

from swarm.clock import now_iso
from swarm.core.lanes import resource_lane
from swarm.core.placement.demand import load_document, load_id, outstanding
from swarm.core.task import Attempt, TaskClass
from swarm.queue import codec
from tests.helpers.queues import claim_one, llm, open_queue

MODEL = "llama3.2:3b"


@pytest.fixture
def queue(tmp_path):
    return open_queue(tmp_path)


def test_a_claim_is_known_before_any_heartbeat_and_read_once(queue, monkeypatch):
    queue.enqueue(llm(model="Llama3.2:3B", name="q1"))
    claim_one(queue.worker_view("w"))
    reads = []
    real = codec.read
    monkeypatch.setattr(codec, "read", lambda path: reads.append(path) or real(path))
    brain = queue.brain_view(lambda _: 0.0, ready_only=True)
    (claim,) = brain.look().claims
    assert (claim.task_class, claim.model, claim.name, claim.worker) == (TaskClass.LLM, MODEL, "q1", "w")
    assert brain.look().claims == (claim,)
    assert len(reads) == 1


def test_a_load_of_the_brains_names_the_life_it_was_made_for_whatever_its_id(queue):
    ours = queue.enqueue({"task_id": "any-id", **load_document("w", MODEL, epoch=7)})
    document = {name: value for name, value in load_document("w", MODEL, epoch=7).items() if name != "metadata"}
    theirs = queue.enqueue({"task_id": load_id("w", MODEL, epoch=7, resource_seq=0), **document})
    brain = queue.brain_view(lambda _: 0.0, ready_only=True)
    (lane,) = brain.look().lanes
    assert lane.lane == resource_lane("w")
    assert {task.task_id: task.epoch for task in lane.resource_tasks} == {ours: 7, theirs: None}
    assert {task.model for task in lane.resource_tasks} == {MODEL}
    claim = claim_one(queue.worker_view("w"), [resource_lane("w")])
    (view,) = brain.look().claims
    assert (view.task_id, view.task_class, view.model) == (claim.task.task_id, TaskClass.RESOURCE, MODEL)
    assert len(brain.look().lanes[0].resource_tasks) == 1


def test_a_load_that_waits_for_its_time_keeps_its_worker_from_nothing_until_it_was_tried(queue):
    document = load_document("w", MODEL, epoch=7)
    queue.enqueue({"task_id": "tonight", "not_before": now_iso(3600), **document})
    queue.enqueue({"task_id": "failing", **document})
    worker = queue.worker_view("w")
    claim = claim_one(worker, [resource_lane("w")])
    worker.retry(claim, [Attempt(attempt=1, worker="w", outcome="retried", fault="infra")], delay_s=60.0, counts=False)
    snapshot = queue.brain_view(lambda _: 0.0, ready_only=True).look()
    assert [one.task.task_id for one in outstanding(snapshot)["w"]] == ["failing"]


def test_what_cannot_be_understood_is_a_claim_of_no_class_and_what_is_no_file_is_none(queue):
    folder = queue.layout.held_by("w")
    os.makedirs(folder)
    with open(f"{folder}/bad.1.json", "w", encoding="ascii") as file:
        file.write("{")
    os.mkfifo(f"{folder}/fifo.1.json")
    (claim,) = queue.brain_view(lambda _: 0.0, ready_only=True).look().claims
    assert (claim.task_id, claim.task_class) == ("bad", None)
