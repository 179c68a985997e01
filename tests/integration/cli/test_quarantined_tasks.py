"""A task whose file turns out to be none: whoever waits for it hears of it, and nobody waits for ever."""

import csv
import json
import os
import time

import pytest
from typer.testing import CliRunner

from swarm.api.results import read_result
from swarm.cli.app import app
from swarm.cli.run import single_task
from swarm.core.task import TaskState, Trail
from swarm.errors import QueueError, UnknownTask
from swarm.queue.batches.batch_book import Manifest
from swarm.queue.batches.batch_watch import BatchWatch
from swarm.queue.batches.tally import tally
from swarm.views import explanations
from tests.helpers.queues import claim_one, finish_one, llm
from tests.helpers.turns import ANSWER, TurnedBrain, work
from tests.helpers.wait import wait_until


def damage(queue, task_id):
    with open(queue.find(task_id).path, "wb") as file:
        file.write(b'{"task_id": oh no')


@pytest.mark.parametrize("restarted", [False, True], ids=["the same brain", "another brain"])
def test_a_session_whose_current_task_is_corrupt_goes_on(queue, brain, caplog, restarted):
    first, second, third = (queue.enqueue(llm(session="chat")) for _ in range(3))
    brain.settle()
    damage(queue, first)
    worker = queue.worker_view("w")
    assert claim_one(worker) is None, "what is no task is set aside"
    if restarted:
        brain = TurnedBrain(queue)
    brain.settle()
    assert work(worker) == [second]
    if not restarted:
        assert f"Task {first} will never end, it is in corrupt/{first}.1.json: " in caplog.text
    brain.settle()
    assert work(worker) == [third]


def test_a_dependent_of_a_corrupt_task_fails_with_its_place_and_reason(queue, brain):
    queue.enqueue(llm(task_id="a"))
    queue.enqueue(llm(task_id="b", depends_on=["a"]))
    queue.enqueue(llm(task_id="c", depends_on=["a"], on_dependency_failure="run"))
    brain.settle()
    damage(queue, "a")
    worker = queue.worker_view("w")
    claim_one(worker)
    brain.settle()
    message = queue.read("b")["error"]["message"]
    assert message.startswith("its dependency a will never end, it is in corrupt/a.1.json: ")
    assert queue.find("c").state is TaskState.PENDING, "it is to run anyway"


def test_so_does_one_of_a_blocked_file_or_a_drop_in_that_is_none(queue, brain):
    queue.enqueue(llm(task_id="a", not_before="2999-01-01T00:00:00Z"))
    damage(queue, "a")
    with open(f"{queue.layout.pending}/x.json", "w", encoding="utf-8") as file:
        file.write("{oops")
    then = time.time() - 60
    os.utime(file.name, (then, then))
    for name, wanted in (("b", "a"), ("y", "x")):
        queue.enqueue(llm(task_id=name, depends_on=[wanted]))
    brain.settle()
    assert "corrupt/a.0.json" in queue.read("b")["error"]["message"]
    assert "corrupt/x.json: not a JSON object" in queue.read("y")["error"]["message"]


def test_a_second_file_of_a_task_that_goes_on_says_nothing_about_it(queue, brain):
    queue.enqueue(llm(task_id="a"))
    queue.enqueue(llm(task_id="b", depends_on=["a"]))
    for name in ("a.0.json", "a.json"):
        with open(f"{queue.layout.corrupt}/{name}", "w", encoding="utf-8") as file:
            file.write("a copy")
    brain.settle()
    assert queue.find("b").state is TaskState.BLOCKED
    worker = queue.worker_view("w")
    assert work(worker) == ["a"]
    brain.settle()
    assert work(worker) == ["b"]


def test_a_purge_leaves_what_tells_a_session_that_it_may_go_on(queue, brain):
    first, second = (queue.enqueue(llm(session="chat")) for _ in range(2))
    brain.settle()
    damage(queue, first)
    worker = queue.worker_view("w")
    claim_one(worker)
    old = time.time() - 60
    for name in os.listdir(queue.layout.corrupt):
        os.utime(f"{queue.layout.corrupt}/{name}", (old, old))
    assert queue.purge([TaskState.CORRUPT], older_than_s=30)[TaskState.CORRUPT].documents == 0
    TurnedBrain(queue).settle()
    assert work(worker) == [second]


@pytest.mark.parametrize("waits", [{}, {"not_before": "2999-01-01T00:00:00Z"}], ids=["pending", "blocked"])
def test_cancelling_a_batch_sets_aside_what_is_none_and_goes_on(queue, waits):
    ids = [queue.enqueue(llm(**waits)) for _ in range(3)]
    damage(queue, ids[1])
    assert queue.cancel_many(ids, "no longer wanted").cancelled == 2
    assert [queue.find(i) and queue.find(i).state for i in ids] == [TaskState.CANCELLED, None, TaskState.CANCELLED]
    assert queue.quarantined(ids[1]).reason.startswith("not a task")


def test_cancelling_a_task_that_is_none_tells_where_it_lies(queue):
    queue.enqueue(llm(task_id="a"))
    damage(queue, "a")
    with pytest.raises(UnknownTask, match=r"is in corrupt/a\.json: not a task"):
        queue.cancel("a", "no longer wanted")


def test_stopping_a_hopeless_batch_goes_on_past_one_that_is_none(queue, brain):
    manifest = Manifest(batch_id="b", source="x", format="jsonl", created_at="now", max_fails=0)
    for _ in queue.batches().submit(manifest, [(f"k{i}", llm(f"{i}")) for i in range(4)]):
        pass
    ids = list(queue.batches().task_ids("b"))
    worker = queue.worker_view("w")
    assert finish_one(worker, claim_one(worker), TaskState.FAILED, ANSWER)
    damage(queue, ids[1])
    wait_until(lambda: brain.view.look().over_limit, what="its failure is counted")
    brain.settle()
    assert [queue.find(i) and queue.find(i).state for i in ids[1:]] == [None, TaskState.CANCELLED, TaskState.CANCELLED]


def test_a_blocked_task_that_waits_in_its_lane_already_is_set_aside_when_its_turn_comes(queue, brain):
    queue.enqueue(llm(task_id="a", not_before="2000-01-01T00:00:00Z"))
    path = queue.find("a").path
    with open(path, "rb") as file:
        content = file.read()
    brain.settle()
    with open(path, "wb") as file:
        file.write(content)
    other = queue.enqueue(llm(session="chat"))
    brain.settle()
    assert [queue.find(i).state for i in ("a", other)] == [TaskState.PENDING, TaskState.PENDING]
    assert os.listdir(queue.layout.blocked) == []
    assert queue.stats().corrupt == 1


def over_list(queue, brain):
    queue.enqueue(llm(task_id="list"))
    work(queue.worker_view("w"), trail=Trail(result={"message": {"content": "[1, 2]"}}))
    queue.enqueue(llm("Sum up {item}", task_id="m", depends_on=["list"], map={"over": "list"}))
    queue.enqueue(llm(task_id="after", depends_on=["m"]))


@pytest.mark.parametrize("damaged", ["list", "m-1"])
def test_a_map_task_whose_answers_are_none_fails_with_the_reason_and_the_others_go_on(queue, brain, damaged):
    over_list(queue, brain)
    if damaged == "m-1":
        brain.settle()
        work(queue.worker_view("w"))
    damage(queue, damaged)
    other = queue.enqueue(llm(session="chat"))
    brain.settle()
    assert queue.read("m")["error"]["message"].startswith(f"the record of {damaged} is damaged: ")
    assert queue.find("after").state is TaskState.FAILED
    assert queue.find(other).state is TaskState.PENDING


def test_a_map_task_that_is_none_is_set_aside_when_its_turn_comes(queue, brain):
    over_list(queue, brain)
    brain.view.look()
    damage(queue, "m")
    brain.settle()
    assert queue.quarantined("m") is not None
    assert "is in corrupt/m.json" in queue.read("after")["error"]["message"]


def test_results_tell_of_what_is_damaged_or_set_aside_and_give_the_others(queue, tmp_path):
    manifest = Manifest(batch_id="b", source="x", format="openai", created_at="now")
    for _ in queue.batches().submit(manifest, [(f"k{i}", llm(f"{i}", custom_id=f"{i}")) for i in range(5)]):
        pass
    ids = list(queue.batches().task_ids("b"))
    damage(queue, ids[0])
    assert work(queue.worker_view("w"), trail=ANSWER) == ids[1:], "the first is set aside"
    damage(queue, ids[2])
    os.unlink(queue.find(ids[3]).path)
    words = ["results", "b", "--root", queue.layout.root, "-o"]
    told = CliRunner().invoke(app, [*words, str(tmp_path / "o.jsonl"), "--json"])
    said = json.loads(told.stdout)
    assert (told.exit_code, said["items"], said["completed"], said["damaged"]) == (1, 4, 2, 2), "one was purged"
    good, bad = ((tmp_path / name).read_text().splitlines() for name in ("o.jsonl", "o.errors.jsonl"))
    assert [json.loads(line)["custom_id"] for line in good] == ["1", "4"]
    why = [json.loads(line)["error"]["message"] for line in bad]
    assert why[0].startswith(f"its record is in corrupt/{ids[0]}.1.json: not a task")
    assert why[1].startswith("its record is damaged: ")
    assert "damaged: 2 records" in CliRunner().invoke(app, [*words, str(tmp_path / "o.csv")]).stdout
    with open(tmp_path / "o.csv", newline="", encoding="utf-8") as rows:
        told_of = [(row["task_id"], row["status"], row["error"].partition(":")[0]) for row in csv.DictReader(rows)]
    assert told_of == [
        (ids[0], "unfinished", "damaged"),
        (ids[1], "completed", ""),
        (ids[2], "unfinished", "damaged"),
        (ids[4], "completed", ""),
    ]
    counted = tally(queue.layout, queue.storage, "b", ids)
    assert (counted.completed.items, counted.left) == (2, 3), "of the damaged and the purged nothing is known"


def test_who_waits_for_a_batch_does_not_wait_for_what_is_set_aside(queue):
    ids = [queue.enqueue(llm()) for _ in range(3)]
    with open(f"{queue.layout.corrupt}/{ids[0]}.0.json", "w", encoding="utf-8") as file:
        file.write("a copy of one that goes on")
    watch = BatchWatch(queue.layout, ids)
    assert watch.look().left == 3
    damage(queue, ids[1])
    assert work(queue.worker_view("w")) == [ids[0], ids[2]]
    found = watch.look()
    assert (found.completed, found.failed, found.left, watch.open_ids()) == (2, 1, 0, [])
    found = BatchWatch(queue.layout, ids).look()
    assert (found.completed, found.failed, found.left) == (2, 1, 0), "who comes later sees the same"


def test_it_is_explained(queue):
    queue.enqueue(llm(task_id="a"))
    damage(queue, "a")
    claim_one(queue.worker_view("w"))
    aside = queue.quarantined("a")
    found = explanations.quarantined("a", aside, "/a queue")
    assert found.reasons[0].next_step.startswith("swarm submit --task '/a queue/corrupt/a.1.json'")
    assert found.state == "corrupt"
    assert "is in corrupt/a.1.json: " in found.reasons[0].text
    assert queue.quarantined("nobody") is None
    queue.enqueue(llm(task_id="b", depends_on=["nobody"]))
    told = CliRunner().invoke(app, ["explain", "b", "--root", queue.layout.root]).stdout
    assert "There is no task nobody, which it waits for" in " ".join(told.split())
    told = CliRunner().invoke(app, ["explain", "a", "--root", queue.layout.root]).stdout
    assert "is in corrupt/a.1.json" in " ".join(told.split())


def test_the_listing_of_corrupt_files_says_why(queue, brain):
    for name, data in {"broken.json": b"{oops", "marked.json": "{}".encode("utf-16")}.items():
        path = f"{queue.layout.pending}/{name}"
        with open(path, "wb") as file:
            file.write(data)
        queue.storage.quarantine(path, brain.view.file_drop_in(name).partition(": ")[2])
    with open(f"{queue.layout.corrupt}/unexplained.json", "wb"):
        pass
    told = CliRunner().invoke(app, ["queue", "list", "corrupt", "--json", "--root", queue.layout.root])
    whys = {row["task_id"]: row["error"] for row in json.loads(told.stdout)["tasks"]}
    assert whys["broken.json"].startswith("not a JSON object")
    assert whys["marked.json"] == "begins with a byte order mark of UTF-16; save it as UTF-8"
    assert whys["unexplained.json"] is None
    text = CliRunner().invoke(app, ["queue", "list", "corrupt", "--root", queue.layout.root]).stdout
    assert "byte order mark" in text
    assert "no reason is recorded" in text


def test_an_ended_task_whose_record_is_damaged_is_a_message_for_who_waits_for_it(queue):
    task_id = queue.enqueue(llm())
    assert work(queue.worker_view("w")) == [task_id]
    damage(queue, task_id)
    for read in (lambda: read_result(queue.layout, task_id), lambda: single_task._answer(queue, task_id)):
        with pytest.raises(QueueError, match=f"the record of task {task_id} is damaged") as caught:
            read()
        assert "swarm queue fsck" in caught.value.hint
