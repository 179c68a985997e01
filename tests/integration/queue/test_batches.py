"""Batches: submitted once, resumed by content, followed to their end."""

import os
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.core.task import TaskState, Trail
from swarm.errors import LockHeld, QueueError
from swarm.queue.batches import batch_book as batches_module
from swarm.queue.batches import failure_limit as hopeless
from swarm.queue.batches.batch_book import Manifest, Submitted
from swarm.queue.batches.batch_watch import BatchWatch
from swarm.queue.file_queue import FileQueue
from swarm.queue.operations import task_ops as people
from tests.helpers.queues import LANE, assert_one_state_each, claim_one, finish_one, llm, settle
from tests.helpers.slowlisting import hide_behind_listing
from tests.helpers.wait import wait_until

MANIFEST = Manifest(batch_id="b-1", source="x.jsonl", format="jsonl", created_at="now")


def items(*texts):
    return [(f"key-{t}", llm(t)) for t in texts]


def submit(queue, pairs, manifest=MANIFEST, *, partial=False):
    total = None
    for total in queue.batches().submit(manifest, pairs, partial=partial):  # noqa: B007
        pass
    return total


def work(queue, limit=1000, state=TaskState.COMPLETED):
    worker = queue.worker_view("w")
    done = 0
    while done < limit and (claim := claim_one(worker)):
        finish_one(
            worker, claim, state, Trail(result={"message": {"content": claim.task.request["messages"][0]["content"]}})
        )
        done += 1
    return done


def test_the_same_again_submits_nothing(queue):
    assert submit(queue, items("a", "b", "c")) == Submitted(items=3, new=3, again=0)
    assert work(queue, 1) == 1
    assert submit(queue, items("a", "b", "c")) == Submitted(items=3, new=0, again=3)
    assert work(queue) == 2
    assert submit(queue, items("a", "b", "c")).new == 0
    assert queue.stats().pending == {}
    assert queue.batches().manifest("b-1").submitted


@given(limits=st.lists(st.none() | st.integers(1, 8), min_size=1, max_size=6))
def test_a_batch_keeps_what_it_had_however_little_of_it_is_asked_for(tmp_path_factory, limits):
    queue = FileQueue(str(tmp_path_factory.mktemp("queue")), "fast").prepare()
    texts, known = "abcdefgh", 0
    for limit in limits:
        total = submit(queue, items(*texts[:limit]), partial=limit is not None)
        known = max(known, limit or len(texts))
        record = [queue.read(i)["request"]["messages"][0]["content"] for i in queue.batches().task_ids("b-1")]
        assert record == list(texts[:known]), "nothing is lost, all is in the input's order"
        assert [*queue.batches().task_ids("b-1", total.items)] == [*queue.batches().task_ids("b-1")][: total.items]
        assert queue.batches().manifest("b-1").items == known
    assert sum(queue.stats().pending.values()) == known, "and nothing is there twice"


def test_the_first_of_a_batch_whose_submission_was_cut_off_do_not_hide_the_rest(queue, monkeypatch):
    monkeypatch.setattr(batches_module, "CHUNK", 2)

    def broken():
        yield from items("a", "b", "c", "d")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        submit(queue, broken())
    submit(queue, items("a"), msgspec.structs.replace(MANIFEST, models={"m": 1}), partial=True)
    assert [queue.read(i)["request"]["messages"][0]["content"] for i in queue.batches().task_ids("b-1")] == [
        "a",
        "b",
        "c",
        "d",
    ]


def test_what_was_known_of_models_stays(queue):
    submit(queue, items("a", "b", "c"), msgspec.structs.replace(MANIFEST, models={"m": 2, "n": 1}))
    submit(queue, items("a"), msgspec.structs.replace(MANIFEST, models={"m": 1}), partial=True)
    assert queue.batches().manifest("b-1").models == {"m": 2, "n": 1}


def test_after_a_purge_the_same_again_submits_what_is_gone_beside_what_still_waits(queue):
    submit(queue, items("a", "b", "c"))
    worker = queue.worker_view("w")
    first = claim_one(worker)
    finish_one(worker, first, TaskState.COMPLETED, Trail())
    os.unlink(queue.layout.terminal(TaskState.COMPLETED, first.task.task_id))
    submit(queue, items("a", "b", "c"))
    assert_one_state_each(queue, list(queue.batches().task_ids("b-1")))
    assert work(queue) == 3


def test_nothing_of_a_batch_is_put_back_while_it_is_submitted(queue, monkeypatch):
    monkeypatch.setattr(batches_module, "CHUNK", 1)
    submit(queue, items("a", "b"))
    last = list(queue.batches().task_ids("b-1"))[-1]
    queue.cancel(last, "by mistake")
    again = queue.batches().submit(MANIFEST, items("a", "b"))
    next(again)
    with pytest.raises(LockHeld, match="b-1 is being submitted"):
        queue.retry(last)
    with pytest.raises(LockHeld, match="b-1 is being submitted"):
        queue.retry_many([last])
    list(again)
    assert queue.retry_many([last]) == 1
    assert_one_state_each(queue, list(queue.batches().task_ids("b-1")))


def test_items_are_known_by_content_not_by_line(queue):
    submit(queue, items("a", "b"))
    work(queue)
    assert submit(queue, items("new", "b", "a")) == Submitted(items=3, new=1, again=2)
    work(queue)
    texts = [finished["result"]["message"]["content"] for _, finished in queue.batches().documents("b-1")]
    assert texts == ["new", "b", "a"]


def test_results_come_in_input_order_with_holes_for_what_has_not_ended(queue):
    submit(queue, items(*"abcde"))
    work(queue, 2)
    pairs = list(queue.batches().documents("b-1"))
    assert [t["request"]["messages"][0]["content"] for t, _ in pairs] == list("abcde")
    assert [f is not None for _, f in pairs] == [True, True, False, False, False]


def test_a_task_that_moves_on_while_it_is_read_keeps_its_columns(queue, monkeypatch):
    submit(queue, items("a"))
    find, moves = batches_module.lookup.find, iter([claim_one])

    def find_what_moves_on(layout, task_id):
        located = find(layout, task_id)
        for move in moves:
            assert move(queue.worker_view("w"))
        return located

    monkeypatch.setattr(batches_module.lookup, "find", find_what_moves_on)
    ((task, finished),) = queue.batches().documents("b-1")
    assert (task["request"]["messages"][0]["content"], finished) == ("a", None)


def test_an_interrupted_submission_is_completed_by_the_next(queue, monkeypatch):
    monkeypatch.setattr(batches_module, "CHUNK", 10)

    def broken():
        yield from items(*(str(i) for i in range(25)))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        submit(queue, broken())
    assert queue.stats().pending == {LANE: 20}
    assert not queue.batches().manifest("b-1").submitted
    work(queue, 5)
    assert submit(queue, items(*(str(i) for i in range(25)))) == Submitted(items=25, new=5, again=20)
    ids = [i for _, i in queue.batches().known("b-1").items()]
    assert len(set(ids)) == 25
    assert_one_state_each(queue, ids)


def test_ids_written_down_without_their_tasks_are_submitted_then(queue):
    """A death between the items file and the tasks: the ids are known, nothing is there."""
    with Path(f"{queue.layout.batches}/b-1.items").open("w") as file:
        file.write("key-a 1m81kk1s4000n9rjh\nkey-b 1m81kk1s4001n9rjh\nkey-c 1m81kk")
    assert submit(queue, items("a", "b", "c")).items == 3
    assert queue.stats().pending == {LANE: 3}
    assert queue.find("1m81kk1s4000n9rjh").state is TaskState.PENDING
    assert submit(queue, items("a", "b", "c")).new == 0


def test_two_submissions_of_one_batch_do_not_mix(queue):
    first = queue.batches().submit(MANIFEST, items("a"))
    next(first)
    with pytest.raises(LockHeld, match="another process"):
        next(queue.batches().submit(MANIFEST, items("a")))
    first.close()
    assert not [n for n in os.listdir(queue.layout.batches) if n.endswith(".new")]


def test_a_watch_follows_to_the_end(queue):
    submit(queue, items(*"abcdef"))
    watch = BatchWatch(queue.layout, queue.batches().task_ids("b-1"))
    assert watch.look().left == 6
    work(queue, 2)
    work(queue, 1, TaskState.FAILED)
    ended = watch.look()
    assert (ended.completed, ended.failed, ended.left, ended.total) == (2, 1, 3, 6)
    work(queue, 3)
    assert watch.look().left == 0
    assert BatchWatch(queue.layout, queue.batches().task_ids("b-1")).look().completed == 5


def test_an_end_that_hides_behind_a_slow_listing_is_seen_by_the_next(queue, monkeypatch):
    submit(queue, items("a", "b"))
    ids = list(queue.batches().task_ids("b-1"))
    watch = BatchWatch(queue.layout, ids)
    work(queue, 1)
    folder = os.path.dirname(queue.layout.terminal(TaskState.COMPLETED, ids[0]))
    hide_behind_listing(monkeypatch, folder, lambda: work(queue, 1))
    assert watch.look().left == 1
    assert watch.look().left == 0


def test_a_shard_that_goes_while_it_is_looked_at_holds_nothing(queue, monkeypatch):
    submit(queue, items("a"))
    watch = BatchWatch(queue.layout, queue.batches().task_ids("b-1"))
    folder = os.path.dirname(queue.layout.terminal(TaskState.COMPLETED, next(queue.batches().task_ids("b-1"))))
    os.mkdir(folder)
    stat = os.lstat

    def stat_and_remove(path, **more):
        found = stat(path, **more)
        if path == folder:
            os.rmdir(folder)
        return found

    with monkeypatch.context() as patch:
        patch.setattr(os, "lstat", stat_and_remove)
        assert watch.look().left == 1
    assert not os.path.exists(folder)


def test_an_unknown_batch_is_named_with_the_known_ones(queue):
    submit(queue, items("a"))
    with pytest.raises(QueueError, match="no batch nope") as caught:
        queue.batches().manifest("nope")
    assert "b-1" in caught.value.hint


def limited(queue, max_fails):
    """A batch of six with a limit of failures, past it, and a brain that has seen it."""
    submit(queue, items(*"abcdef"), msgspec.structs.replace(MANIFEST, max_fails=max_fails))
    brain = queue.brain_view(lambda _attempts: 0.0, ready_only=True)
    work(queue, max_fails + 1, TaskState.FAILED)
    wait_until(lambda: brain.look().over_limit, what="its failures counted")
    return brain


@pytest.mark.parametrize("running", [0, 1])
def test_what_is_put_back_of_a_hopeless_batch_goes_on_until_too_many_fail_again(queue, monkeypatch, running):
    monkeypatch.setattr(hopeless, "QUIET_NS", 0)
    brain, worker = limited(queue, 1), queue.worker_view("w")
    held = [claim_one(worker) for _ in range(running)]
    assert brain.stop_batch("b-1", "hopeless") == 4 - running
    assert len(brain.look().over_limit) == len(held), "who watches it lets go of one that has ended"
    assert queue.retry_many(queue.batches().task_ids("b-1")) == 6 - running
    settle(Path(queue.layout.root))
    assert brain.stop_batch("b-1", "decided just before") == 0
    assert brain.look().over_limit == ()
    work(queue, 1, TaskState.FAILED)
    settle(Path(queue.layout.root))
    assert brain.look().over_limit == ()
    work(queue, 1, TaskState.FAILED)
    (view,) = wait_until(lambda: brain.look().over_limit, what="its new failures counted")
    assert (view.failed, view.max_fails) == (2, 1)
    assert brain.stop_batch("b-1", "hopeless") == 4 - running


def test_one_put_back_is_not_judged_by_the_failures_of_before(queue, monkeypatch):
    monkeypatch.setattr(hopeless, "QUIET_NS", 0)
    brain = limited(queue, 2)
    queue.retry(next(iter(queue.list(TaskState.FAILED))).task_id)
    assert brain.look().over_limit == ()
    monkeypatch.setattr(hopeless, "QUIET_NS", 10**18)
    work(queue, 3, TaskState.FAILED)
    settle(Path(queue.layout.root))
    assert brain.look().over_limit == (), "others may follow"


def test_nothing_is_judged_while_the_tasks_of_a_batch_are_put_back(queue, monkeypatch):
    monkeypatch.setattr(hopeless, "QUIET_NS", 10**18)
    brain, seen, rewrite, forget = limited(queue, 0), [], people.rewrite_tail, people.forget_cancel
    work(queue, 2, TaskState.FAILED)

    def rewrite_slowly(*how):
        settle(Path(queue.layout.root))
        rewrite(*how)

    def look_and_forget(*what):
        seen.append(brain.look().over_limit)
        forget(*what)

    monkeypatch.setattr(people, "rewrite_tail", rewrite_slowly)
    monkeypatch.setattr(people, "forget_cancel", look_and_forget)
    assert queue.retry_many(queue.batches().task_ids("b-1")) == 3
    assert seen == [(), (), ()]


def test_retrying_leaves_a_mark_only_where_there_is_a_limit(queue):
    submit(queue, items("a"))
    queue.enqueue(llm(batch_id="nobody-s"))
    work(queue, 2, TaskState.FAILED)
    for task_id in [located.task_id for located in queue.list(TaskState.FAILED)]:
        queue.retry(task_id)
    assert not [name for name in os.listdir(queue.layout.batches) if name.endswith(".retried")]


def test_a_watch_takes_in_more_that_may_have_ended_already(queue):
    submit(queue, items("a", "b"))
    first, second = queue.batches().task_ids("b-1")
    work(queue)
    settle(Path(queue.layout.root))
    never = f"{first[:-1]}{'y' if first[-1] == 'z' else 'z'}"
    watch = BatchWatch(queue.layout, [first, never])
    assert (watch.look().completed, watch.look().left) == (1, 1)
    watch.add([second])
    assert (watch.look().completed, watch.look().left) == (2, 1)
