"""Retention: what is let go by age and by number, and that nothing else ever is."""

import os
import time
from itertools import count

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from swarm.config.settings import BrainSettings, Settings
from swarm.core.policy.decide import COUNT_MIN_AGE_S, DAY_S, MOST_PER_TURN, decide, old_after_s, retention
from swarm.core.policy.decisions import Purge
from swarm.core.snapshot import FinishedShard, FinishedView, SwarmSnapshot
from swarm.core.task import TaskState, Trail
from swarm.errors import InputError
from swarm.queue.layout import IdMaker, shard_of, shard_time_of, time_of
from swarm.queue.operations.retention import FinishedIndex
from tests.helpers.queues import assert_one_state_each, claim_one, finish_one, llm, open_queue
from tests.helpers.slowlisting import hide_behind_listing


def seen(*shards: tuple[str, int, float], **more) -> SwarmSnapshot:
    old = tuple(FinishedShard(state=TaskState.COMPLETED, shard=n, documents=d, oldest_age_s=a) for n, d, a in shards)
    total = more.pop("total", sum(s.documents for s in old))
    return SwarmSnapshot(now_iso="", mono_s=0.0, finished=FinishedView(documents=total, old=old), **more)


def test_nothing_is_let_go_unless_it_is_asked_for():
    assert old_after_s(BrainSettings()) is None
    assert list(retention(seen(("a", 5, 1e9)), BrainSettings())) == []


def test_by_age_the_oldest_shards_go_first():
    settings = BrainSettings(retention_days=7)
    found = list(retention(seen(("a", 5, 8 * DAY_S), ("b", 5, 30 * DAY_S), ("c", 5, 6.9 * DAY_S)), settings))
    assert [d.shards for d in found] == [((TaskState.COMPLETED, "b"), (TaskState.COMPLETED, "a"))]
    assert found[0].older_than_s == 7 * DAY_S
    assert found[0].limit == MOST_PER_TURN


def test_by_number_only_what_is_too_many_and_a_day_old():
    settings = BrainSettings(retention_count=90)
    (found,) = retention(seen(("a", 40, 2 * DAY_S), ("b", 40, 0.5 * DAY_S), total=100), settings)
    assert (found.limit, found.shards, found.older_than_s) == (10, ((TaskState.COMPLETED, "a"),), COUNT_MIN_AGE_S)
    assert list(retention(seen(("a", 40, 0.5 * DAY_S), total=100), settings)) == []
    assert list(retention(seen(("a", 40, 2 * DAY_S), total=90), settings)) == []


def test_a_turn_of_grace_judges_no_age():
    assert list(retention(seen(("a", 5, 1e9), grace=True), BrainSettings(retention_days=1))) == []
    settings = Settings(brain=BrainSettings(retention_days=1))
    assert any(isinstance(d, Purge) for d in decide(seen(("a", 5, 1e9)), settings))


@given(
    st.lists(st.tuples(st.integers(1, 5000), st.floats(0, 1e8)), max_size=8),
    st.floats(0, 100),
    st.integers(0, 5000),
)
def test_whatever_lies_there_at_most_a_bounded_number_goes_and_never_the_young(shards, days, number):
    settings = BrainSettings(retention_days=days, retention_count=number)
    snapshot = seen(*((f"s{i}", d, a) for i, (d, a) in enumerate(shards)))
    ages = {(s.state, s.shard): s.oldest_age_s for s in snapshot.finished.old}
    for found in retention(snapshot, settings):
        assert 0 < found.limit <= MOST_PER_TURN
        assert found.older_than_s >= min(days * DAY_S or COUNT_MIN_AGE_S, COUNT_MIN_AGE_S)
        assert all(ages[key] > found.older_than_s for key in found.shards)


def test_a_shard_tells_when_its_first_id_can_have_been_made():
    task_id = IdMaker().new()
    begins = shard_time_of(shard_of(task_id))
    assert begins <= time_of(task_id) < begins + 34
    assert shard_time_of(shard_of("mine")) is None
    assert shard_time_of("foreign") is None


# -- on real files


def finish(queue, state=TaskState.COMPLETED, *, age_s=0.0, **fields):
    """A task that ended so long ago."""
    task_id = queue.enqueue(llm(**fields))
    worker = queue.worker_view("w")
    claim = claim_one(worker, ["llm@llama3.2:3b"])
    assert claim is not None
    assert claim.task.task_id == task_id
    assert finish_one(worker, claim, state, Trail(result={"response": "x"}))
    path = queue.layout.terminal(state, task_id)
    then = time.time() - age_s
    os.utime(path, (then, then))
    return task_id


def brain(queue, **more):
    return queue.brain_view(lambda _attempts: 0.0, **more)


def test_the_index_finds_what_is_old_and_the_purge_takes_just_that(tmp_path):
    queue = open_queue(tmp_path)
    old = [finish(queue, TaskState.FAILED, age_s=10 * DAY_S, task_id=f"old{i}") for i in range(5)]
    young = [finish(queue, age_s=DAY_S, task_id=f"young{i}") for i in range(5)]
    waiting = queue.enqueue(llm())
    view = brain(queue)
    found = view.look(7 * DAY_S).finished.old
    assert sum(s.documents for s in found) >= 5
    assert {s.state for s in found} == {TaskState.FAILED}
    removed = sum(view.purge(s.state, s.shard, older_than_s=7 * DAY_S, limit=100) for s in found)
    assert removed == 5
    assert not any(queue.find(i) for i in old)
    assert_one_state_each(queue, [*young, waiting])
    assert view.look(7 * DAY_S).finished.old == ()


def test_a_document_that_hides_behind_a_slow_listing_is_found_in_the_next_round(tmp_path, monkeypatch):
    monkeypatch.setattr("swarm.queue.operations.retention.SWEEP_S", 0.0)
    queue = open_queue(tmp_path)
    hidden = finish(queue)[:-5] + "zzzzz"
    folder = os.path.dirname(queue.layout.terminal(TaskState.COMPLETED, hidden))
    index = FinishedIndex(queue.layout, count=True)
    hide_behind_listing(monkeypatch, folder, lambda: finish(queue, task_id=hidden))
    assert index.look(DAY_S).documents == 1
    assert index.look(DAY_S).documents == 2


def test_a_purge_goes_in_bounded_steps_and_goes_on_where_it_was(tmp_path):
    queue = open_queue(tmp_path)
    for i in range(30):
        finish(queue, age_s=3 * DAY_S, task_id=f"t{i}")
    shards = {shard_of(f"t{i}") for i in range(30)}
    view = brain(queue)
    taken = [sum(view.purge(TaskState.COMPLETED, s, older_than_s=DAY_S, limit=1) for s in shards) for _ in range(2)]
    assert taken[0] == len(shards)
    assert queue.stats().completed == 30 - sum(taken)


def test_what_something_waiting_needs_stays(tmp_path):
    queue = open_queue(tmp_path)
    needed = finish(queue, age_s=9 * DAY_S)
    other = finish(queue, age_s=9 * DAY_S)
    queue.enqueue(llm(depends_on=[needed, "not-there-yet"]))
    view = brain(queue)
    view.look()
    assert view.purge(TaskState.COMPLETED, shard_of(needed), older_than_s=DAY_S, limit=100) == 1
    assert queue.find(needed) is not None
    assert queue.find(other) is None
    queue.purge([TaskState.COMPLETED], older_than_s=0.0)
    assert queue.find(needed) is not None


def test_the_last_of_a_session_stays_so_that_the_next_gets_its_turn(tmp_path):
    queue = open_queue(tmp_path)
    first = queue.enqueue(llm(session="chat"))
    view = brain(queue)
    (blocked,) = view.look().blocked
    assert view.release_blocked(blocked.task_id, blocked.attempt)
    worker = queue.worker_view("w")
    finish_one(worker, claim_one(worker, ["llm@llama3.2:3b"]), TaskState.COMPLETED, Trail())
    assert queue.purge([TaskState.COMPLETED], older_than_s=-1.0)[TaskState.COMPLETED].documents == 0
    assert queue.find(first) is not None
    queue.enqueue(llm(session="chat"))
    assert view.look().blocked[0].session_turn


def test_a_wall_clock_that_jumps_ahead_makes_nothing_old(tmp_path, monkeypatch):
    queue = open_queue(tmp_path)
    finish(queue, task_id="young")
    view = brain(queue)
    true_time = time.time
    monkeypatch.setattr(time, "time", lambda: true_time() + 400 * DAY_S)
    assert view.look(DAY_S).finished.old == ()
    assert view.purge(TaskState.COMPLETED, shard_of("young"), older_than_s=DAY_S, limit=10) == 0


def test_one_look_is_bounded_and_many_see_all(tmp_path, monkeypatch):
    queue = open_queue(tmp_path)
    monkeypatch.setattr("swarm.queue.operations.retention.LOOK_BUDGET", 3)
    for i in range(10):
        finish(queue, age_s=2 * DAY_S, task_id=f"t{i}")
    index = FinishedIndex(queue.layout, count=True)
    totals = [index.look(DAY_S).documents for _ in range(20)]
    assert totals[0] < 10
    assert totals[-1] == 10


def test_people_purge_by_state_and_age_and_may_try_it_first(tmp_path):
    queue = open_queue(tmp_path)
    finish(queue, TaskState.FAILED, age_s=2 * DAY_S, task_id="f")
    finish(queue, TaskState.CANCELLED, age_s=2 * DAY_S, task_id="c")
    (tmp_path / "queue" / "corrupt" / "bad.json").write_text("x")
    (tmp_path / "queue" / "corrupt" / "bad.json.reason").write_text("no task")
    os.utime(tmp_path / "queue" / "corrupt" / "bad.json", (1, 1))
    states = [TaskState.FAILED, TaskState.CORRUPT]
    dry = queue.purge(states, older_than_s=DAY_S, dry=True)
    assert dry[TaskState.FAILED].documents == 1
    assert dry[TaskState.FAILED].size_bytes > 0
    assert dry[TaskState.CORRUPT].documents == 0, "set aside just now, however old the file"
    assert queue.find("f") is not None
    assert queue.purge(states, older_than_s=DAY_S)[TaskState.FAILED].documents == 1
    assert queue.find("f") is None
    assert queue.find("c") is not None
    assert queue.purge([TaskState.CORRUPT], older_than_s=-1.0)[TaskState.CORRUPT].documents == 1
    assert os.listdir(tmp_path / "queue" / "corrupt") == []


@pytest.mark.parametrize("state", [TaskState.PENDING, TaskState.BLOCKED, TaskState.PROCESSING])
def test_what_has_not_ended_is_refused(tmp_path, state):
    queue = open_queue(tmp_path)
    with pytest.raises(InputError, match="have not ended"):
        queue.purge([state], older_than_s=0.0)
    with pytest.raises(AssertionError):
        brain(queue).purge(state, "x", older_than_s=0.0, limit=1)


@hypothesis_settings(max_examples=25)
@given(st.lists(st.floats(0, 20), min_size=1, max_size=6), st.floats(0.5, 15), st.integers(0, 4))
def test_turns_until_nothing_is_left_to_do_leave_exactly_what_is_to_stay(tmp_path_factory, ages, days, number):
    queue = open_queue(tmp_path_factory.mktemp("q"))
    ids = count()
    made = {finish(queue, age_s=age * DAY_S, task_id=f"t{next(ids)}"): age for age in ages}
    wanted = BrainSettings(retention_days=days, retention_count=number)
    view = brain(queue, count_finished=number > 0)
    for _ in range(20):
        view._finished._due_s = float("-inf")
        snapshot = SwarmSnapshot(now_iso="", mono_s=0.0, finished=view.look(old_after_s(wanted)).finished)
        for d in (one for one in retention(snapshot, wanted) if isinstance(one, Purge)):
            left = d.limit
            for state, shard in d.shards:
                left -= view.purge(state, shard, older_than_s=d.older_than_s, limit=left)
    left = {i for i in made if queue.find(i)}
    assert not [i for i in left if made[i] > days + 0.01]
    assert left >= {i for i, age in made.items() if age < min(days, 1.0) - 0.01}
    if number:
        assert len(left) <= max(number, sum(1 for age in made.values() if age <= 1.0))
