"""Prefix order in a real queue: who claims what, in which order, and what is left as it was."""

import os
import random

import pytest

from swarm.core.task import Finish, TaskState, Trail
from swarm.queue.batches.batch_book import Manifest
from swarm.queue.layout import group_of, is_grouped
from tests.helpers.forked import forked
from tests.helpers.queues import LANE, assert_one_state_each, claim_one, exchange_some, finish_one, llm, open_queue


def words(seed: int, chars: int) -> str:
    return "".join(random.Random(seed).choices("abcdefg hijklmnop", k=chars))


def texts(groups: int, rows: int, first: int = 0) -> list[str]:
    """Prompts of so many groups, dealt out in turn."""
    headers = [words(first + n, 1500) for n in range(groups)]
    return [f"{headers[at % groups]} {first}-{at}" for at in range(groups * rows)]


def submit(queue, prompts, *, batch="b1", prefix_order=True, **fields):
    manifest = Manifest(batch_id=batch, source="s", format="jsonl", created_at="")
    items = [(f"{batch}-{at}", llm(text, **fields)) for at, text in enumerate(prompts)]
    for _ in queue.batches().submit(manifest, items, prefix_order=prefix_order):
        pass
    return list(queue.batches().task_ids(batch))


def text_of(claim):
    return claim.task.request["messages"][0]["content"]


def drain(worker):
    found = []
    while (claim := claim_one(worker)) is not None:
        found.append(text_of(claim))
        assert finish_one(worker, claim, TaskState.COMPLETED, Trail(result={}))
    return found


def test_one_worker_runs_group_by_group_and_the_results_are_in_the_input_s_order(tmp_path):
    queue, prompts = open_queue(tmp_path), texts(3, 5)
    ids = submit(queue, prompts)
    assert drain(queue.worker_view("gpu0")) == [prompts[at] for first in range(3) for at in range(first, 15, 3)]
    documents = [ended for _, ended in queue.batches().documents("b1")]
    assert [one["request"]["messages"][0]["content"] for one in documents] == prompts
    assert_one_state_each(queue, ids)


def test_without_prefix_order_and_without_groups_the_order_is_the_input_s(tmp_path):
    queue, prompts = open_queue(tmp_path), texts(3, 5)
    submit(queue, prompts, prefix_order=False)
    unique = [words(n, 1500) for n in range(30)]
    submit(queue, unique, batch="b2")
    assert not any(is_grouped(name) for name in os.listdir(queue.layout.lane(LANE)))
    assert drain(queue.worker_view("gpu0")) == prompts + unique


def test_names_tell_the_group(tmp_path):
    queue = open_queue(tmp_path)
    ids = submit(queue, [*texts(2, 4), "no group"])
    marks = [group_of(task_id) for task_id in ids]
    assert marks == [*(marks[:2] * 4), ""]
    assert len(set(marks)) == 3
    grouped, plain = sorted(os.listdir(queue.layout.lane(LANE)))
    assert (is_grouped(grouped), is_grouped(plain)) == (True, False)
    assert len(os.listdir(f"{queue.layout.lane(LANE)}/{grouped}")) == 8
    assert all(queue.find(task_id) is not None for task_id in ids)


def test_a_bucket_holds_much_of_large_groups_and_little_of_small_ones(tmp_path):
    queue = open_queue(tmp_path)
    submit(queue, texts(3, 700))
    submit(queue, texts(300, 7, first=10), batch="b2")
    lane = queue.layout.lane(LANE)
    sizes = [len(os.listdir(f"{lane}/{bucket}")) for bucket in sorted(os.listdir(lane))]
    assert sizes == [2100, 1001, 1001, 98], "whole groups"


def test_each_worker_has_a_group_of_its_own_until_none_is_fresh(tmp_path):
    queue = open_queue(tmp_path)
    submit(queue, texts(3, 8))
    one, other = queue.worker_view("gpu0"), queue.worker_view("gpu1")
    begun = [claim_one(worker) for worker in (one, other, one, other)]
    groups = [group_of(claim.task.task_id) for claim in begun]
    assert groups[0] == groups[2] != groups[1] == groups[3]
    rest = [group_of(claim_one(one).task.task_id) for _ in range(6)]
    assert set(rest) == {groups[0]}
    fresh = [group_of(claim_one(one).task.task_id) for _ in range(8)]
    assert len(set(fresh)) == 1
    assert fresh[0] not in groups
    helped = [group_of(claim_one(one).task.task_id) for _ in range(6)]
    assert helped == [groups[1]] * 6, "with no fresh one left it helps"
    assert claim_one(one) is claim_one(other) is None


def test_who_goes_on_finishes_and_claims_in_one_transaction(tmp_path):
    queue = open_queue(tmp_path)
    submit(queue, texts(2, 6))
    workers = [queue.worker_view(f"gpu{n}") for n in range(2)]
    held = [exchange_some(worker, (), 2).claims for worker in workers]
    for _ in range(4):
        for at, worker in enumerate(workers):
            finishes = [Finish(claim, TaskState.COMPLETED, Trail(result={})) for claim in held[at][:1]]
            got = exchange_some(worker, finishes, 1).claims
            assert {group_of(c.task.task_id) for c in got} == {group_of(c.task.task_id) for c in held[at]}
            held[at] = [*held[at][1:], *got]


def claim_spread(worker, finished=None):
    with worker.transaction() as transaction:
        if finished is not None:
            transaction.finish(finished, TaskState.COMPLETED, Trail(result={}))
        return transaction.claim((LANE,), spread=True)


def test_spread_each_slot_goes_on_with_its_own_group(tmp_path):
    queue = open_queue(tmp_path)
    submit(queue, texts(4, 6))
    worker = queue.worker_view("gpu0")
    slots = [claim_spread(worker) for _ in range(3)]
    marks = [group_of(claim.task.task_id) for claim in slots]
    assert len(set(marks)) == 3
    for turn in range(15):
        at = (turn * 2) % 3
        slots[at] = claim_spread(worker, slots[at])
        assert group_of(slots[at].task.task_id) == marks[at]
    fresh = group_of(claim_spread(worker, slots[0]).task.task_id)
    assert fresh not in marks, "a slot whose group is used up takes the one that no slot is in"
    assert {group_of(claim_spread(worker, slots[at]).task.task_id) for at in (1, 2)} == {fresh}, "then it helps"


def test_spread_slots_of_other_workers_count_too(tmp_path):
    queue = open_queue(tmp_path)
    ids = submit(queue, texts(4, 6))
    one, other = queue.worker_view("gpu0"), queue.worker_view("gpu1")
    claims = [claim_spread(worker) for worker in (one, other, one, other)]
    assert len({group_of(claim.task.task_id) for claim in claims}) == 4
    helped = [group_of(claim_spread(one).task.task_id) for _ in range(4)]
    assert len(set(helped)) == 4, "spread evenly while none is freed"
    rest = 0
    while claim_spread(other) is not None:
        rest += 1
    assert rest == len(ids) - 8


def test_a_lost_race_for_a_fresh_group_ends_in_another_group(tmp_path, monkeypatch):
    queue = open_queue(tmp_path)
    submit(queue, texts(2, 4))
    one, other = queue.worker_view("gpu0"), queue.worker_view("gpu1")
    real, won = other._storage.claim_move, []

    def late(source, target):
        if "/gpu1/" in target and not won:
            won.append(claim_one(one))
        real(source, target)

    monkeypatch.setattr(other._storage, "claim_move", late)
    lost = claim_one(other)
    assert other.lost_races == 1
    assert group_of(lost.task.task_id) != group_of(won[0].task.task_id)


def test_a_later_batch_and_a_later_task_do_not_overtake(tmp_path):
    queue = open_queue(tmp_path)
    first, second = texts(2, 4), texts(2, 4, first=100)
    submit(queue, first)
    queue.enqueue(llm("single"))
    submit(queue, second, batch="b2")
    submit(queue, [first[0] + str(n) for n in range(8)], batch="b3")  # a group that is warm already
    found = drain(queue.worker_view("gpu0"))
    assert set(found[:8]) == set(first)
    assert found[8] == "single"
    assert set(found[9:17]) == set(second)


def test_nothing_submitted_later_comes_among_the_groups(tmp_path):
    queue = open_queue(tmp_path)
    submit(queue, texts(2, 4))
    single = queue.enqueue(llm("single"))
    assert not is_grouped(queue.find(single).path.split("/")[-2])
    one, other = queue.worker_view("gpu0"), queue.worker_view("gpu1")
    claim_one(one), claim_one(other)
    third = queue.worker_view("gpu2")
    assert [text_of(claim_one(third)) == "single" for _ in range(7)] == [False] * 6 + [True]


def test_another_order_that_somebody_asked_for_is_kept(tmp_path):
    queue, prompts = open_queue(tmp_path), texts(2, 4)
    items = [(str(at), llm(text)) for at, text in enumerate(prompts)]
    manifest = Manifest(batch_id="b1", source="s", format="jsonl", created_at="")
    for _ in queue.batches().submit(manifest, items, keys=sorted(key for key, _ in items), prefix_order=True):
        pass
    assert drain(queue.worker_view("gpu0")) == prompts


def test_a_worker_called_away_comes_back_to_its_group(tmp_path):
    queue, prompts = open_queue(tmp_path), texts(3, 4)
    submit(queue, prompts)
    other, worker = queue.worker_view("gpu0"), queue.worker_view("gpu1")
    first, begun = claim_one(other), claim_one(worker)
    queue.enqueue(llm("urgent", priority=9))
    assert finish_one(other, first, TaskState.COMPLETED, Trail(result={}))
    assert text_of(claim_one(worker)) == "urgent"
    assert [group_of(claim_one(worker).task.task_id) for _ in range(3)] == [group_of(begun.task.task_id)] * 3


@pytest.mark.parametrize("spread", [False, True])
def test_who_loses_a_race_in_its_group_stays_in_it(tmp_path, monkeypatch, spread):
    queue = open_queue(tmp_path)
    submit(queue, texts(2, 8))
    other, worker = queue.worker_view("gpu0"), queue.worker_view("gpu1")
    first, begun = claim_one(other), claim_one(worker)
    assert finish_one(other, first, TaskState.COMPLETED, Trail(result={}))  # now the other group is fresh
    real, done = worker._storage.claim_move, []

    def late(source, target):
        if "/gpu1/" in target and not done:
            done.append(source)
            os.unlink(source)
        real(source, target)

    monkeypatch.setattr(worker._storage, "claim_move", late)
    again = claim_spread(worker, begun) if spread else claim_one(worker)
    assert group_of(again.task.task_id) == group_of(begun.task.task_id)
    assert worker.lost_races == 1


def test_priorities_come_first(tmp_path):
    queue = open_queue(tmp_path)
    submit(queue, texts(2, 4))
    worker = queue.worker_view("gpu0")
    begun = claim_one(worker)
    submit(queue, texts(2, 4, first=50), batch="b2", priority=8)
    found = drain(worker)
    assert all(text.split()[-1].startswith("50-") for text in found[:8])
    assert found[8].startswith(text_of(begun)[:1500]), "then it goes on with its group"


def test_what_is_requeued_comes_first_and_foreign_files_hold_nobody_up(tmp_path):
    queue = open_queue(tmp_path)
    ids = submit(queue, texts(2, 4))
    lane = queue.layout.lane(LANE)
    bucket = f"{lane}/{os.listdir(lane)[0]}"
    open(f"{bucket}/.note", "w").close()
    os.rename(f"{bucket}/{ids[7]}.0.json", f"{bucket}/byhand.0.json")  # a task of no group among them: not its own name
    worker = queue.worker_view("gpu0")
    begun = claim_one(worker)
    assert worker.release(begun)
    assert claim_one(worker).task.task_id == begun.task.task_id
    assert len(drain(worker)) == 6
    assert os.listdir(bucket) == [".note"]


@pytest.mark.parametrize("after", [0, 3, 7])
def test_a_submitter_killed_between_is_finished_by_the_same_command(tmp_path, monkeypatch, after):
    queue, prompts = open_queue(tmp_path), texts(2, 6)

    def killed():
        real, left = queue.storage.write_new, [after]

        def write(*args, **kwargs):
            if not left[0]:
                os.kill(os.getpid(), 9)
            left[0] -= 1
            return real(*args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(type(queue.storage), "write_new", lambda _self, *a, **k: write(*a, **k))
            submit(queue, prompts)

    assert forked(killed) == -9
    ids = submit(queue, prompts)
    assert assert_one_state_each(queue, ids) == {TaskState.PENDING: 12}
    found = drain(queue.worker_view("gpu0"))
    assert sorted(found) == sorted(prompts)
    assert len([at for at in range(1, 12) if found[at][:1500] != found[at - 1][:1500]]) == 1
