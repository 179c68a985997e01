"""What a batch has cost, counted by reading each document once; and what people do to whole batches."""

import os
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.core.task import Attempt, TaskError, TaskState, Trail
from swarm.errors import QueueError
from swarm.queue.batches import tally as batchtally
from swarm.queue.batches.batch_book import Manifest
from swarm.queue.batches.tally import tally
from swarm.queue.batches.worker_sums import GAP_S, MAX_SPANS, merged
from swarm.queue.operations import task_ops
from swarm.views.batches.batch_rows import batch_row, details
from swarm.views.blocks import Line
from tests.helpers.queues import assert_one_state_each, claim_one, finish_one, llm, settle
from tests.helpers.slowlisting import hide_behind_listing

MANIFEST = Manifest(batch_id="b-1", source="x.jsonl", format="jsonl", created_at="now")
AT = "2026-02-07T21:05:{:06.3f}+00:00"


@pytest.fixture
def ids(queue):
    for _ in queue.batches().submit(MANIFEST, [(f"key-{n}", llm(str(n))) for n in range(10)]):
        pass
    return list(queue.batches().task_ids("b-1"))


def work(queue, limit, state=TaskState.COMPLETED, card="GPU-1", begin=10.0):
    worker = queue.worker_view("w")
    for number in range(limit):
        claim = claim_one(worker)
        begun = begin + 2 * number
        attempt = Attempt(
            attempt=1,
            worker="w",
            gpu=card,
            model_digest="d1",
            started_at=AT.format(begun),
            ended_at=AT.format(begun + 1.5),
            outcome="completed",
        )
        usage = {"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 5}
        error = None if state is TaskState.COMPLETED else TaskError("timeout", "late")
        finish_one(worker, claim, state, Trail(result={"usage": usage}, attempts=(attempt,), error=error))


def cost(queue, ids):
    return tally(queue.layout, queue.storage, "b-1", ids)


def test_sums_are_of_this_batch_alone(queue, ids):
    queue.enqueue(llm("somebody else's", priority=9))
    work(queue, 1)
    work(queue, 4)
    work(queue, 2, TaskState.FAILED, card="GPU-2", begin=30)
    found = cost(queue, ids)
    assert (found.completed.items, found.failed.items, found.cancelled.items, found.left) == (4, 2, 0, 4)
    assert (found.all.tokens_in, found.all.tokens_out, found.all.attempts) == (12, 18, 6)
    assert found.all.errors == {"timeout": 2}
    assert found.all.digests == {"llama3.2:3b": {"d1": 6}}
    assert found.all.cards == {"GPU-1": [(found.all.span[0], found.all.span[0] + 7.5)], "GPU-2": found.failed.cards["GPU-2"]}
    assert found.all.card_s == pytest.approx(7.5 + 3.5)


def test_prompt_tokens_that_were_not_computed_again_are_summed_where_servers_say_them(queue, ids):
    work(queue, 2)
    unsaid = cost(queue, ids)
    assert unsaid.all.tokens_in_reused is None
    worker = queue.worker_view("w")
    for cached in (0, 3):
        usage = {"prompt_tokens": 5, "completion_tokens": 1, "cached_tokens": cached}
        finish_one(worker, claim_one(worker), TaskState.COMPLETED, Trail(result={"usage": usage}))
    finish_one(worker, claim_one(worker), TaskState.COMPLETED, Trail(result={"usage": usage}, cached=True))
    found = cost(queue, ids)
    assert (found.all.tokens_in, found.all.tokens_in_reused) == (14, 3), "an answer from the cache saved all of its tokens"
    said, silent = (batch_row(MANIFEST, t, alive=True, active=9, price_per_mtok=None) for t in (found, unsaid))
    assert "prefix cache: 3 of 14 prompt tokens (21%) were not computed again" in words(said)
    assert not any("prefix cache" in line for line in words(silent))


def words(row):
    report = {"options": {}, "versions": {"submitted_by": "1"}, "models": {}, "workers": {}, "cards": {}, "errors": {}}
    return [block.text for block in details(row, report) if isinstance(block, Line)]


def test_a_second_look_reads_nothing_that_it_knows(queue, ids, monkeypatch):
    work(queue, 6)
    settle(Path(queue.layout.root))
    first = cost(queue, ids)
    with monkeypatch.context() as patched:
        patched.setattr(batchtally.codec, "parse_document", lambda _: pytest.fail("read again"))
        assert cost(queue, ids).all == first.all
    work(queue, 1, begin=40)
    assert cost(queue, ids).completed.items == 7
    os.unlink(f"{queue.layout.batches}/b-1.tally")
    assert cost(queue, ids).completed.items == 7


def test_a_document_that_hides_behind_a_slow_listing_is_counted_by_the_next_look(queue, ids, monkeypatch):
    work(queue, 1)
    folder = os.path.dirname(queue.layout.terminal(TaskState.COMPLETED, ids[0]))
    hide_behind_listing(monkeypatch, folder, lambda: work(queue, 1))
    assert cost(queue, ids).completed.items == 1
    assert cost(queue, ids).completed.items == 2


def test_cancelling_and_retrying_a_batch(queue, ids):
    other = queue.enqueue(llm("somebody else's", priority=0))
    work(queue, 3)
    work(queue, 2, TaskState.FAILED)
    held = claim_one(queue.worker_view("w"))
    done = queue.cancel_many(ids, "no longer wanted")
    assert (done.cancelled, done.asked) == (4, 1)
    assert os.path.exists(queue.layout.cancel_mark(held.task.task_id))
    assert queue.read(other)["state"] == "pending"
    assert queue.cancel_many(ids, "again").cancelled == 0
    assert queue.retry_many(ids) == 6
    states = assert_one_state_each(queue, [*ids, other])
    assert states == {TaskState.COMPLETED: 3, TaskState.PENDING: 7, TaskState.PROCESSING: 1}
    assert queue.retry_many(ids) == 0


@pytest.mark.parametrize("lost", ["fail", "run"])
def test_what_others_wait_for_is_retried_before_them(queue, brain, monkeypatch, lost):
    """However soon the brain looks: else it sees that what they wait for has failed, and acts upon it."""
    queue.enqueue(llm(task_id="a"))
    queue.enqueue(llm(task_id="b", depends_on=["a"], on_dependency_failure=lost))
    queue.enqueue(llm(task_id="c", depends_on=["b"]))
    queue.cancel("a", "a mistake")
    brain.settle()
    work(queue, len(list(queue.list(TaskState.PENDING))), TaskState.FAILED)
    brain.settle()
    assert {queue.find(i).state for i in "bc"} == {TaskState.FAILED}
    monkeypatch.setattr(task_ops, "wake", lambda _layout: brain.settle())
    assert queue.retry_many("cba") == 3
    assert [queue.find(i).state for i in "abc"] == [TaskState.PENDING, TaskState.BLOCKED, TaskState.BLOCKED]


def test_what_cannot_be_put_back_keeps_the_others_from_nothing(queue, ids):
    work(queue, 10, TaskState.FAILED)
    with open(queue.find(ids[0]).path, "wb") as file:
        file.write(b'{"task_id": oh no')
    with pytest.raises(QueueError, match=ids[0]):
        queue.retry_many(ids)
    assert assert_one_state_each(queue, ids) == {TaskState.PENDING: 9, TaskState.FAILED: 1}


SPANS = st.lists(
    st.tuples(st.integers(0, 5000), st.integers(0, 9)).map(lambda s: (float(s[0]), float(s[0] + s[1]))), max_size=600
)


@given(SPANS)
def test_merged_spans_are_apart_and_cover_all(spans):
    found = merged(spans)
    assert len(found) <= MAX_SPANS
    assert all(b[0] - a[1] > GAP_S for a, b in pairwise(found))
    assert all(any(begin <= s[0] and s[1] <= end for begin, end in found) for s in spans)
    assert merged(found) == found
