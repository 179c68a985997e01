"""A worker and a disk that refuses: what ended is kept, recorded later, and never taken for a fence."""

import errno
import logging
import os
from contextlib import contextmanager

import pytest

from swarm.core.faults import TaskFault
from swarm.core.lanes import Pause
from swarm.core.task import TaskState
from swarm.queue.coordination import change_pauses
from tests.helpers.queues import open_queue
from tests.helpers.worker_fakes import Harness, llm


@pytest.fixture(autouse=True)
def _logs(caplog):
    caplog.set_level(logging.DEBUG)


def test_what_ended_while_the_disk_refuses_is_recorded_as_it_ended(caplog):
    swarm = Harness(slots=3).warm()
    swarm.work.fail("b", TaskFault("deterministic", "bad", "no"))
    swarm.queue.put(llm("a"), llm("b"), llm("c"))
    swarm.work.gate.clear()
    swarm.until(lambda: len(swarm.work.running) == 3)
    swarm.queue.broken = "No space left on device"
    swarm.work.gate.set()
    swarm.until(lambda: "The disk refuses" in caplog.text)
    assert not swarm.queue.ended
    assert "Completed" not in caplog.text, "nothing is said before it is on record"
    swarm.queue.broken = ""
    swarm.until(lambda: len(swarm.queue.ended) == 3)
    assert {i: state for i, (state, _) in swarm.queue.ended.items()} == {
        "a": TaskState.COMPLETED,
        "b": TaskState.FAILED,
        "c": TaskState.COMPLETED,
    }
    assert "Fenced" not in caplog.text
    assert swarm.state.tally.completed == 2


def test_one_exchange_serves_all_slots(monkeypatch):
    swarm = Harness(slots=4).warm()
    seen = []
    real = swarm.queue.transaction

    @contextmanager
    def transaction():
        with real() as one:
            yield one
        seen.append((len(one.recorded), len(one.claims)))

    monkeypatch.setattr(swarm.queue, "transaction", transaction)
    swarm.work.gate.clear()
    swarm.queue.put(*(llm(f"t{n}") for n in range(8)))
    swarm.until(lambda: len(swarm.work.running) == 4)
    assert max(claimed for _, claimed in seen) == 4
    swarm.work.gate.set()
    swarm.until(lambda: len(swarm.queue.ended) == 8)
    assert sum(claimed for _, claimed in seen) == sum(ended for ended, _ in seen) == 8


# -- the same with a real queue -----------------------------------------------------------------------------------------

TASK = {"task_class": "llm", "model": "a", "request": {"prompt": "hello"}}


@pytest.fixture
def queue(tmp_path):
    return open_queue(tmp_path)


@pytest.fixture
def refuse(monkeypatch):
    """Refuses one call for one path, as a process does that has no descriptors left; given nothing, no more."""
    broken = set()

    def refusing(name):
        real = getattr(os, name)

        def call(path, *args, **more):
            if (name, path) in broken:
                raise OSError(errno.EMFILE, "Too many open files")
            return real(path, *args, **more)

        monkeypatch.setattr(os, name, call)

    for name in ("open", "stat", "lstat", "listdir", "scandir"):
        refusing(name)

    def now(*calls):
        broken.clear()
        broken.update(calls)

    return now


@pytest.mark.parametrize("call", ["lstat", "open"])
def test_a_worker_that_cannot_see_what_is_paused_keeps_its_results_until_it_can(queue, refuse, caplog, call):
    first, second = queue.enqueue(TASK), queue.enqueue(TASK)
    swarm = Harness(queue=queue.worker_view("worker-1"))
    swarm.work.gate.clear()
    swarm.until(lambda: swarm.work.running == {first})
    change_pauses(queue.layout, queue.storage, lambda p: p.with_one(Pause("model", "a:latest")))
    refuse((call, queue.layout.pauses))
    swarm.work.gate.set()
    swarm.until(lambda: "The disk refuses: cannot read the queue: Too many open files" in caplog.text)
    assert queue.find(first).state is TaskState.PROCESSING
    refuse()
    swarm.until(lambda: queue.find(first).state is TaskState.COMPLETED)
    swarm.until(lambda: "The disk works again" in caplog.text)
    for _ in range(3):
        swarm.turn()
    assert queue.find(second).state is TaskState.PENDING, "its model is paused"
    change_pauses(queue.layout, queue.storage, lambda p: p.without("model", "a:latest"))
    swarm.until(lambda: queue.find(second).state is TaskState.COMPLETED)


def test_a_worker_that_cannot_count_what_waits_says_so_and_works_on(queue, refuse, caplog):
    swarm = Harness(queue=queue.worker_view("worker-1")).warm()
    refuse(("listdir", queue.layout.pending))
    swarm.until(lambda: "cannot read the queue: Too many open files" in swarm.state.reason)
    task_id = queue.enqueue(TASK)
    swarm.until(lambda: os.path.exists(queue.layout.terminal(TaskState.COMPLETED, task_id)))
    assert "The disk refuses" not in caplog.text


@pytest.mark.parametrize("call", ["stat", "scandir"])
def test_a_result_is_on_record_though_nobody_can_see_whether_others_wait_for_it(queue, refuse, call):
    first = queue.enqueue(TASK)
    queue.enqueue({**TASK, "depends_on": [first]})
    swarm = Harness(queue=queue.worker_view("worker-1"))
    os.utime(queue.layout.wakeup, ns=(0, 0))
    refuse((call, queue.layout.blocked), (call, queue.layout.cancels))
    swarm.until(lambda: queue.find(first).state is TaskState.COMPLETED)
    swarm.until(lambda: not swarm.worker.slots.runs)
    assert os.stat(queue.layout.wakeup).st_mtime_ns > 0, "who waits for it is let go at once all the same"
