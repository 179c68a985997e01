"""The table of blocked tasks: whatever happens to the files, its invariants hold and it agrees with a fresh one."""

import os
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from swarm.core.lanes import Pause
from swarm.core.task import TaskState, Trail
from swarm.errors import QueueError
from swarm.queue.brain.blocked_table import BlockedTable
from swarm.queue.coordination import PauseBook, change_pauses
from tests.helpers.queues import claim_one, finish_one, llm, open_queue, unreadable

DONE = Trail(result={"message": {"content": "done"}})
OLD, FAR = "2026-01-01T00:00:00.000+00:00", "2999-01-01T00:00:00.000+00:00"


def check(table, queue):
    """The invariants, as the module lists them."""
    names = set(os.listdir(queue.layout.blocked))
    assert table.rows.keys().isdisjoint(table.unread)
    assert {*table.rows, *table.unread} == names
    assert len(table) == len(names)
    wanted = {task_id for row in table.rows.values() for task_id in row.open}
    assert table.dependents == {t: {name for name, row in table.rows.items() if t in row.open} for t in wanted}
    assert set(table.completions.awaited) == wanted | set(table.sessions.current.values())
    timed = {name for _, name in table.timers}
    assert {name for name, row in table.rows.items() if not row.due} <= timed
    for name, row in table.rows.items():
        held = row.entry.batch_id is not None and table.pauses.batch(row.entry.batch_id) is not None
        on_turn = table.sessions.goes(row.entry.session, row.entry.task_id, name)
        if row.failed is not None or (row.due and not row.open and on_turn and not held):
            assert name in table.candidates


def told(views):
    """What a brain would do with them."""
    return {
        (v.task_id, v.failed_dependency)
        for v in views
        if v.failed_dependency or not (v.waiting_for or v.batch_paused or (v.due_in_s or 0) > 0 or not v.session_turn)
    }


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["submit", "submit", "release", "complete", "fail", "cancel", "pause", "resume"]),
        st.integers(0, 7),
    ),
    max_size=25,
)


@settings(max_examples=30, suppress_health_check=[HealthCheck.too_slow])
@given(steps=STEPS, told_by_kernel=st.booleans())
def test_whatever_happens_the_invariants_hold(tmp_path_factory, steps, told_by_kernel):
    queue = open_queue(tmp_path_factory.mktemp("q"))
    brain, worker = queue.brain_view(lambda _: 0.0, ready_only=told_by_kernel), queue.worker_view("w")
    ids = [queue.enqueue(llm())]
    for what, n in steps:
        some = ids[n % len(ids)]
        match what:
            case "submit":
                fields = ({"depends_on": [some]}, {"session": f"s{n % 2}"}, {"not_before": OLD if n % 2 else FAR})[n % 3]
                ids.append(queue.enqueue(llm(**fields, **({"batch_id": "b"} if n > 3 else {}))))
            case "release":
                for view in brain.look().blocked[: n + 1]:
                    if told([view]) and view.failed_dependency is None:
                        brain.release_blocked(view.task_id, view.attempt)
            case "complete" | "fail":
                claim = claim_one(worker)
                if claim is not None:
                    finish_one(worker, claim, TaskState.COMPLETED if what == "complete" else TaskState.FAILED, DONE)
            case "cancel":
                with suppress(QueueError):
                    queue.cancel(some, "not wanted")
            case "pause":
                change_pauses(queue.layout, queue.storage, lambda known: known.with_one(Pause("batch", "b")))
            case "resume":
                change_pauses(queue.layout, queue.storage, lambda known: known.without("batch", "b"))
        views = brain.look().blocked
        check(brain.blocked, queue)
        fresh = BlockedTable(queue.layout, queue.storage, PauseBook(queue.layout).read)
        assert told(views) == told(fresh.look()), what


def test_a_file_that_cannot_be_read_is_counted_and_holds_up_none(tmp_path, monkeypatch):
    queue = open_queue(tmp_path)
    table = BlockedTable(queue.layout, queue.storage, ready_only=True)
    bad, good = (queue.enqueue(llm(not_before=FAR)) for _ in range(2))
    unreadable(monkeypatch, bad)
    with pytest.raises(OSError, match="Input/output"):
        table.look()
    assert (len(table), list(table.unread)[-1]) == (2, f"{bad}.0.json")
    assert table.look() == (), "nothing is read again at once"
    check(table, queue)
    assert queue.find(good).state is TaskState.BLOCKED
