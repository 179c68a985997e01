"""A purge takes what nobody needs: no result that something still asks for, and a batch's files once all of it is gone."""

import errno
import fcntl
import json
import os
import time

import msgspec
import pytest
from typer.testing import CliRunner

from swarm.cli.app import app
from swarm.core.notification import Note
from swarm.core.task import Attempt, TaskState, Trail
from swarm.core.workflow.feed import FeedState, task_id_of
from swarm.errors import LockHeld, QueueError, StorageFault
from swarm.queue.batches import purge_batches
from swarm.queue.batches.batch_book import Manifest
from swarm.queue.batches.tally import tally
from swarm.queue.brain.release_log import needs_path, read_needs
from swarm.queue.layout import shard_of
from swarm.queue.stores.feeds import FeedBook
from swarm.queue.stores.notifications import write_note
from tests.helpers.queues import claim_one, finish_one, llm
from tests.helpers.turns import ANSWER, TurnedBrain, work

OLD_S = 3600.0


def age(queue):
    """Everything that has ended did so a day ago, and every batch was submitted then."""
    then = time.time() - 86400
    for name in queue.batches().names():
        tally(queue.layout, queue.storage, name, queue.batches().task_ids(name))
    for state in (TaskState.COMPLETED, TaskState.FAILED, TaskState.CANCELLED):
        for one in queue.list(state):
            os.utime(one.path, (then, then))
    for name in os.listdir(queue.layout.batches):
        os.utime(f"{queue.layout.batches}/{name}", (then, then))


def purged(queue, brain):
    """By hand, and by the brain's retention; ids that are gone."""
    before = {one.task_id for one in queue.list(TaskState.COMPLETED)}
    age(queue)
    brain.view.look()
    for shard in {shard_of(i) for i in before}:
        brain.view.purge(TaskState.COMPLETED, shard, older_than_s=OLD_S, limit=100)
    queue.purge([TaskState.COMPLETED], older_than_s=OLD_S)
    return before - {one.task_id for one in queue.list(TaskState.COMPLETED)}


def test_a_result_stays_until_who_asks_for_it_has_ended(queue, brain):
    for name in ("a", "b", "c"):
        queue.enqueue(llm(task_id=name))
    worker = queue.worker_view("w")
    work(worker)
    queue.enqueue(llm("Check {results.a.text}", task_id="asks", depends_on=["a"]))
    queue.enqueue(llm("only after it", task_id="after", depends_on=["b"]))
    assert purged(queue, brain) == {"c"}, "both wait in blocked"
    brain.settle()
    assert queue.find("asks").state is TaskState.PENDING
    assert purged(queue, brain) == {"b"}, "let go, one needs a result and the other none"
    claim = claim_one(worker)
    brain = TurnedBrain(queue)
    brain.settle()
    assert purged(queue, brain) == set(), "at work"
    finish_one(worker, claim, TaskState.COMPLETED, ANSWER)
    work(worker)
    assert "a" in purged(queue, brain)


def test_what_is_needed_is_on_record_in_one_flush_and_not_for_ever(queue, brain, monkeypatch):
    for name in ("a", "b"):
        queue.enqueue(llm(task_id=name))
    worker = queue.worker_view("w")
    work(worker)
    for k in range(5):
        queue.enqueue(llm("{results.a.text}", task_id=f"t{k}", depends_on=["a", "b"]))
    writes = []
    real = os.open

    def opened(path, flags, *rest, **more):
        if flags & (os.O_WRONLY | os.O_RDWR):
            writes.append(path)
        return real(path, flags, *rest, **more)

    monkeypatch.setattr(os, "open", opened)
    brain.settle()
    assert writes.count(needs_path(queue.layout)) == 1
    assert read_needs(queue.layout) == {f"t{k}": ("a", "b") for k in range(5)}
    work(worker)
    with open(needs_path(queue.layout), "ab") as file:
        file.write(b'["torn",["')
    queue.enqueue(llm("{results.b.text}", task_id="next", depends_on=["b"]))
    TurnedBrain(queue).settle()
    assert read_needs(queue.layout) == {"next": ("b",)}


def test_a_mapped_tasks_children_stay_until_their_answers_are_gathered(queue, brain):
    queue.enqueue(llm(task_id="list"))
    worker = queue.worker_view("w")
    work(worker, trail=Trail(result={"message": {"content": "[1, 2]"}}))
    queue.enqueue(llm("{item}", task_id="m", depends_on=["list"], map={"over": "list"}))
    brain.settle()
    finish_one(worker, claim_one(worker), TaskState.COMPLETED, ANSWER)
    assert purged(queue, brain) <= {"list"}
    work(worker)
    brain.settle()
    assert queue.read("m")["result"]["list"] == ["done", "done"]
    assert {"m", "m-0", "m-1"} <= purged(queue, brain)


def test_a_cancelled_mapped_task_stays_until_its_children_are_ended(queue, brain):
    queue.enqueue(llm(task_id="list"))
    work(queue.worker_view("w"), trail=Trail(result={"message": {"content": "[1, 2]"}}))
    queue.enqueue(llm("{item}", task_id="m", depends_on=["list"], map={"over": "list"}))
    brain.settle()
    with open(queue.layout.cancel_mark("m"), "wb"):
        located = queue.find("m")  # a death came before its children were ended
    queue.brain_view(lambda _: 0.0).withdraw(located.task_id, "no longer wanted")
    age(queue)
    assert queue.purge([TaskState.CANCELLED], older_than_s=OLD_S)[TaskState.CANCELLED].documents == 0
    brain.settle()
    assert queue.find("m-1").state is TaskState.CANCELLED
    age(queue)
    assert queue.purge([TaskState.CANCELLED], older_than_s=OLD_S)[TaskState.CANCELLED].documents == 3


def test_put_back_after_its_result_was_removed_is_refused(queue, brain):
    queue.enqueue(llm(task_id="a"))
    worker = queue.worker_view("w")
    work(worker)
    queue.enqueue(llm("{results.a.text}", task_id="b", depends_on=["a"]))
    brain.settle()
    claim = claim_one(worker)
    finish_one(worker, claim, TaskState.FAILED, Trail(attempts=(Attempt(attempt=1, worker="w", outcome="failed"),)))
    assert purged(queue, brain) == {"a"}
    with pytest.raises(QueueError, match="b waits for a, whose record was removed"):
        queue.retry("b")
    assert queue.find("b").state is TaskState.FAILED


def test_so_it_is_for_one_that_was_cancelled_while_it_waited(queue, brain):
    queue.enqueue(llm(task_id="a"))
    queue.enqueue(llm(task_id="b", depends_on=["a"]))
    queue.cancel("b", "later")
    work(queue.worker_view("w"))
    assert purged(queue, brain) == {"a"}
    with pytest.raises(QueueError, match="b waits for a, whose record was removed"):
        queue.retry("b")


def test_a_mapped_task_that_has_its_parts_waits_for_them_alone(queue, brain):
    queue.enqueue(llm(task_id="list"))
    worker = queue.worker_view("w")
    work(worker, trail=Trail(result={"message": {"content": "[1, 2]"}}))
    queue.enqueue(llm("{item}", task_id="m", depends_on=["list"], map={"over": "list"}))
    brain.settle()
    work(worker)
    queue.cancel("m", "later")
    os.unlink(queue.find("list").path)
    queue.retry("m")
    brain.settle()
    assert queue.read("m")["result"]["list"] == ["done", "done"]


def test_what_somebody_is_to_be_told_of_stays(queue, brain):
    queue.enqueue(llm(task_id="a"))
    work(queue.worker_view("w"))
    write_note(queue.layout, queue.storage, Note(subject="task", id="a", targets=("x",)))
    submit(queue, "told")
    work(queue.worker_view("w"))
    write_note(queue.layout, queue.storage, Note(subject="batch", id="told", targets=("x",)))
    assert purged(queue, brain) == set()
    os.unlink(f"{queue.layout.outbox}/batch-told.json")
    brain.view.look()
    assert len(purged(queue, brain)) == 3


def test_what_a_feeder_made_before_it_died_stays_until_its_cursor_has_moved(queue, brain):
    book = FeedBook(queue.layout, queue.storage)
    os.makedirs(queue.layout.feeds)
    state = FeedState(feed_id="f", source="x", format="text", min=1, target=9, created_at="now", number=1)
    book.write(state)
    for number in (1, 2):
        queue.enqueue(llm(task_id=task_id_of("f", number)))
    work(queue.worker_view("w"))
    assert purged(queue, brain) == {task_id_of("f", 1)}, "the second is offered again, and must be found"
    book.write(msgspec.structs.replace(state, number=2))
    assert purged(queue, brain) == {task_id_of("f", 2)}


# -- batches ----------------------------------------------------------------------------------------------------------


def submit(queue, batch_id="b", count=3, **more):
    manifest = Manifest(batch_id=batch_id, source="x", format="jsonl", created_at="now")
    for _ in queue.batches().submit(manifest, [(f"k{n}", llm(f"{batch_id} {n}", **more)) for n in range(count)]):
        pass


def family(queue, batch_id="b"):
    return sorted(n for n in os.listdir(queue.layout.batches) if n.startswith(f"{batch_id}."))


def test_a_batch_goes_when_all_of_it_has_gone_and_not_before(queue, brain):
    submit(queue, "b")
    submit(queue, "other")
    worker = queue.worker_view("w")
    finish_one(worker, claim_one(worker), TaskState.COMPLETED, ANSWER)
    age(queue)
    queue.purge([TaskState.COMPLETED], older_than_s=OLD_S)
    assert queue.purge_batches(older_than_s=OLD_S) == (), "one is gone, two wait"
    held = claim_one(worker)
    finish_one(worker, claim_one(worker), TaskState.COMPLETED, ANSWER)
    age(queue)
    queue.purge([TaskState.COMPLETED], older_than_s=OLD_S)
    assert queue.purge_batches(older_than_s=OLD_S) == (), "one is at work"
    finish_one(worker, held, TaskState.COMPLETED, ANSWER)
    age(queue)
    assert queue.purge_batches(older_than_s=OLD_S) == (), "one result is there"
    assert queue.purge_batches(older_than_s=OLD_S, purged=[TaskState.COMPLETED], dry=True) == ("b",)
    assert len(family(queue)) == 5
    queue.purge([TaskState.COMPLETED], older_than_s=OLD_S)
    assert queue.purge_batches(older_than_s=2 * 86400) == (), "submitted since"
    assert queue.purge_batches(older_than_s=OLD_S) == ("b",)
    assert family(queue) == []
    assert len(family(queue, "other")) == 5
    submit(queue, "b")
    assert len(work(worker)) == 6, "the same input does its work again"


def test_the_command_says_which_batches_went(queue):
    submit(queue, "b")
    work(queue.worker_view("w"))
    age(queue)
    words = ["queue", "purge", "--older-than", "1h", "--root", queue.layout.root]
    tried = json.loads(CliRunner().invoke(app, [*words, "--dry-run", "--json"]).stdout)
    assert (tried["removed_batches"], tried["removed"]["completed"]["documents"]) == (["b"], 3)
    assert len(family(queue)) == 5
    done = CliRunner().invoke(app, words).stdout
    assert "removed 1 batch whose tasks are all purged: b" in done
    assert family(queue) == []


def test_a_batch_that_was_purged_in_part_does_not_wait_for_what_is_gone(queue):
    def row(name):
        told = json.loads(CliRunner().invoke(app, ["batches", "--json", "--root", queue.layout.root]).stdout)
        found = next(one for one in told["batches"] if one["batch_id"] == name)
        return found["state"], found["completed"], found["left"], found["purged"]

    submit(queue, "b")
    worker = queue.worker_view("w")
    for _ in range(2):
        finish_one(worker, claim_one(worker), TaskState.COMPLETED, ANSWER)
    age(queue)
    queue.purge([TaskState.COMPLETED], older_than_s=OLD_S)
    work(worker)
    assert row("b") == ("finished", 1, 0, 2)
    submit(queue, "other", 1)
    assert row("other") == ("waiting", 0, 1, 0)
    assert row("b")[1:] == (1, 1, 1), "while others wait it is known of so many at least"


def test_what_keeps_an_empty_batch(queue, brain):
    for name in ("told", "fed", "again", "map"):
        submit(queue, name)
    work(queue.worker_view("w"))
    os.makedirs(queue.layout.feeds)
    with open(f"{queue.layout.feeds}/fed.json", "w", encoding="utf-8") as file:
        file.write("{}")
    last = list(queue.batches().task_ids("map"))[-1]
    queue.enqueue(llm(task_id=f"{last}-0", metadata={"map_task": last}))
    age(queue)
    queue.purge([TaskState.COMPLETED], older_than_s=OLD_S)
    write_note(queue.layout, queue.storage, Note(subject="batch", id="told", targets=("x",)))
    with queue.batches().alone("again"):
        assert queue.purge_batches(older_than_s=OLD_S) == ()
    work(queue.worker_view("w"))
    assert queue.purge_batches(older_than_s=OLD_S) == ("again", "map")


def test_the_brain_removes_them_in_steps_of_bounded_size(queue, brain, monkeypatch):
    monkeypatch.setattr("swarm.queue.operations.retention.LOOK_BUDGET", 2)
    for k in range(6):
        submit(queue, f"b{k}")
    work(queue.worker_view("w"))
    age(queue)
    queue.purge([TaskState.COMPLETED], older_than_s=OLD_S)
    view = brain.view
    assert view.look(OLD_S).finished.emptied, "a brain that starts looks once"
    steps = []
    while view.look(OLD_S).finished.emptied:
        steps.append(view.purge_batches(older_than_s=OLD_S))
    assert sorted(sum(steps, ())) == [f"b{k}" for k in range(6)]
    assert max(map(len, steps)) < 6
    queue.enqueue(llm(task_id="a"))
    work(queue.worker_view("w"))
    assert not view.look(OLD_S).finished.emptied, "it has come to rest"
    age(queue)
    assert view.purge(TaskState.COMPLETED, shard_of("a"), older_than_s=OLD_S, limit=10) == 1
    assert view.look(OLD_S).finished.emptied, "a purge may have emptied one"


def test_a_submitter_that_waits_on_a_purged_lock_takes_the_new_one(queue, monkeypatch):
    submit(queue)
    path = f"{queue.layout.batches}/b.lock"
    real, calls = fcntl.flock, []

    def flock(fd, how):
        real(fd, how)
        calls.append(fd)
        if len(calls) == 1:
            os.unlink(path)  # the purge of the empty batch, between its open and its lock

    monkeypatch.setattr(fcntl, "flock", flock)
    with queue.batches().alone("b"):
        monkeypatch.undo()
        assert len(calls) == 2
        with pytest.raises(LockHeld), queue.batches().alone("b"):
            pass


@pytest.mark.parametrize("unread", ["batches.batch_book", "stores.feeds"])
def test_nothing_is_purged_while_it_cannot_be_read_what_is_needed(queue, brain, monkeypatch, unread):
    submit(queue)
    FeedBook(queue.layout, queue.storage).set_wish("feed", "run")
    FeedBook(queue.layout, queue.storage).write(
        FeedState(feed_id="feed", source="x", is_command=False, format="text", model=None, min=1, target=2, created_at="now")
    )
    work(queue.worker_view("w"))

    def refuse(*_args):
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(f"swarm.queue.{unread}.read_file", refuse)
        with pytest.raises(StorageFault):
            queue.purge([TaskState.COMPLETED], older_than_s=-60)
    assert queue.stats().completed == 3


def test_while_a_batch_is_submitted_nothing_of_it_is_purged(queue, brain, monkeypatch):
    manifest = Manifest(batch_id="b", source="x", format="jsonl", created_at="now")
    monkeypatch.setattr("swarm.queue.batches.batch_book.CHUNK", 1)
    going = queue.batches().submit(manifest, [(f"k{n}", llm(f"{n}")) for n in range(2)])
    next(going)
    work(queue.worker_view("w"))
    queue.purge([TaskState.COMPLETED], older_than_s=0.0)
    assert queue.stats().completed == 1, "the rest of it may depend on this"
    monkeypatch.setattr(purge_batches, "SUBMITTING_S", -1.0)
    queue.purge([TaskState.COMPLETED], older_than_s=0.0)
    assert queue.stats().completed == 0, "its submission was cut off"
    going.close()
