"""Cancelling a task that is mapped over a list: nothing of it goes on, whoever dies in between, and it can be put back."""

import json
import os

import pytest

from swarm.core.task import TaskError, TaskState, Trail
from swarm.core.workflow.dag import Links
from swarm.queue import codec
from swarm.queue.batches.batch_book import Manifest
from swarm.queue.fsck import fsck
from swarm.queue.operations.cancel import CancelCounts
from swarm.queue.submit.producer import Producer
from tests.helpers.queues import claim_one, finish_one, llm
from tests.helpers.turns import ANSWER, TurnedBrain, work
from tests.helpers.wait import wait_until

WAITING = (TaskState.PENDING, TaskState.BLOCKED, TaskState.PROCESSING)


def mapped(queue, elements, **more):
    """A list that is there, a task to be mapped over it, and one that joins the answers."""
    queue.enqueue(llm(task_id="list", **more))
    work(queue.worker_view("w"), trail=Trail(result={"message": {"content": json.dumps(elements)}}))
    queue.enqueue(llm("Sum up {item}", task_id="m", depends_on=["list"], map={"over": "list"}, **more))
    queue.enqueue(llm("Join {results.m.text}", task_id="join", depends_on=["m"], **more))


def left(queue):
    return sorted(one.task_id for state in WAITING for one in queue.list(state))


def error(queue, task_id):
    return queue.read(task_id)["error"]["message"]


def test_its_children_go_with_it_and_who_waits_for_it_fails_with_the_reason(queue, brain):
    mapped(queue, [1, 2, 3, 4])
    queue.enqueue(llm(task_id="m-own"))
    queue.enqueue(llm(task_id="m-9"))
    brain.settle()
    worker = queue.worker_view("w")
    held = {c.task.task_id: c for c in (claim_one(worker) for _ in range(4))}
    done, running = held["m-0"], held["m-1"]
    finish_one(worker, done, TaskState.COMPLETED, ANSWER)
    assert queue.cancel("m", "wrong prompt") == "cancelled"
    assert [queue.find(f"m-{k}").state for k in (0, 2, 3)] == [TaskState.COMPLETED, *[TaskState.CANCELLED] * 2]
    assert error(queue, "m-3") == "its map task m was cancelled: wrong prompt"
    assert worker.cancel_requested(running), "its worker is asked to stop"
    assert [queue.find(i).state for i in ("m-own", "m-9")] == [TaskState.PROCESSING] * 2, "ids alone make no child"
    brain.settle()
    assert error(queue, "join") == "its dependency m was cancelled: wrong prompt"
    assert os.listdir(queue.layout.cancels) == ["m-1"], "the mark of the map task is taken away"


@pytest.mark.parametrize("moment", ["before", "after"])
def test_cancelled_while_the_brain_makes_its_children(queue, brain, monkeypatch, moment):
    mapped(queue, [1, 2, 3])
    real = Producer.enqueue_many

    def enqueue_many(self, documents):
        if moment == "before":
            queue.cancel("m", "no more")
        yield from real(self, documents)
        if moment == "after":
            queue.cancel("m", "no more")

    monkeypatch.setattr(Producer, "enqueue_many", enqueue_many)
    brain.settle()
    assert queue.find("m-2").state is TaskState.CANCELLED, "they were made"
    assert left(queue) == []
    assert error(queue, "join") == "its dependency m was cancelled: no more"
    assert not os.listdir(queue.layout.cancels)


def test_a_brain_that_dies_right_after_making_them_leaves_none_to_the_next(queue, brain, monkeypatch):
    """The mark outlives the command that cancelled: the children appeared only after it had looked for them."""
    mapped(queue, [1, 2, 3])
    real = Producer.enqueue_many

    def enqueue_many(self, documents):
        queue.cancel("m", "no more")
        yield from real(self, documents)
        raise KeyboardInterrupt

    monkeypatch.setattr(Producer, "enqueue_many", enqueue_many)
    with pytest.raises(KeyboardInterrupt):
        brain.settle()
    assert left(queue) == ["join", "m-0", "m-1", "m-2"]
    assert not [f for f in fsck.look(queue.layout, agree_s=0) if f.kind == "cancel-mark"], "it is still needed"
    TurnedBrain(queue).settle()
    assert left(queue) == []


def test_a_cancelled_batch_takes_the_children_of_its_map_tasks_along(queue, brain):
    mapped(queue, [1, 2, 3], batch_id="b")
    brain.settle()
    done = queue.cancel_many(["list", "m", "join"], "batch cancelled by hand")
    assert (done.cancelled, done.asked) == (5, 0)
    brain.settle()
    assert left(queue) == []


def test_put_back_it_goes_on_with_what_was_answered(queue, brain):
    mapped(queue, ["a", "b", "c"])
    brain.settle()
    worker = queue.worker_view("w")
    finish_one(worker, claim_one(worker), TaskState.COMPLETED, Trail(result={"message": {"content": "first"}}))
    running = claim_one(worker)
    queue.cancel("m", "later")
    queue.retry("m")
    assert not worker.cancel_requested(running), "the wish is taken back"
    finish_one(worker, running, TaskState.COMPLETED, ANSWER)
    brain.settle()
    assert work(worker) == ["m-2"]
    brain.settle()
    assert queue.read("m")["result"]["list"] == ["first", "done", "done"]


def test_put_back_after_a_failed_part_the_part_is_tried_again(queue, brain):
    mapped(queue, ["a", "b"])
    brain.settle()
    worker = queue.worker_view("w")
    finish_one(worker, claim_one(worker), TaskState.FAILED, Trail(error=TaskError("bad", "no answer")))
    brain.settle()
    assert error(queue, "m") == "its dependency m-0 failed: no answer"
    assert error(queue, "join") == "its dependency m failed: its dependency m-0 failed: no answer"
    assert work(worker) == ["m-1"], "the others go on: put back, it counts what they have answered"
    queue.retry("m")
    brain.settle()
    assert work(worker) == ["m-0"]
    brain.settle()
    assert queue.read("m")["result"]["list"] == ["done", "done"]


def test_many_children_are_ended_in_bounded_steps(queue, brain, monkeypatch):
    monkeypatch.setattr("swarm.queue.brain.brain_queue.CHILDREN_STEP", 4)
    mapped(queue, list(range(10)))
    brain.settle()
    nothing = CancelCounts(cancelled=0, asked=0)
    monkeypatch.setattr("swarm.queue.operations.cancel.Canceller.end_children", lambda *_, **__: nothing)
    queue.cancel("m", "its command dies here")
    monkeypatch.undo()
    monkeypatch.setattr("swarm.queue.brain.brain_queue.CHILDREN_STEP", 4)
    lines = [line for line in brain.settle() if line.startswith("Cancelled")]
    assert lines == [f"Cancelled {n} tasks: its map task m was cancelled" for n in (4, 4, 2)]
    assert left(queue) == []


def test_the_reason_is_told_although_it_is_written_after_the_move(queue, brain, monkeypatch):
    """The brain may look in between: the record is there, its reason a moment later."""
    mapped(queue, ["a"])
    brain.settle()
    real, looks = codec.parse, []

    def parse(data):
        parts = real(data)
        if parts.trail.status != "cancelled":
            return parts
        looks.append(parts)
        return parts if len(looks) > 3 else parts._replace(trail=Trail())

    queue.cancel("m", "wrong prompt")
    monkeypatch.setattr(codec, "parse", parse)
    brain.settle()
    assert error(queue, "join") == "its dependency m was cancelled: wrong prompt"


def test_a_hopeless_batch_takes_the_children_of_its_map_tasks_along(queue, brain, monkeypatch):
    monkeypatch.setattr("swarm.queue.batches.failure_limit.STEP", 2)
    manifest = Manifest(batch_id="b", source="x", format="jsonl", created_at="now", max_fails=0)
    links = Links(keys=("list", "each", "bad"), names={"list": "list"})
    items = [
        ("list", llm("a list", name="list")),
        ("each", llm("{item}", depends_on=["list"], map={"over": "list"})),
        ("bad", llm("bad", priority=9)),
    ]
    for _ in queue.batches().submit(manifest, items, links):
        pass
    worker = queue.worker_view("w")
    bad = claim_one(worker)
    finish_one(worker, claim_one(worker), TaskState.COMPLETED, Trail(result={"message": {"content": "[1, 2, 3, 4, 5]"}}))
    brain.settle()
    running = claim_one(worker).task.task_id
    assert len(left(queue)) == 7
    finish_one(worker, bad, TaskState.FAILED, Trail(error=TaskError("bad", "no")))
    wait_until(lambda: brain.settle() is not None and left(queue) == [running], what="what waits of it ended")
    assert os.listdir(queue.layout.cancels) == [], "what runs may end"
