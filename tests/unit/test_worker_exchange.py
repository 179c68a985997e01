"""A worker and a disk that refuses: what ended is kept, recorded later, and never taken for a fence."""

import logging

import pytest

from swarm.core.faults import TaskFault
from swarm.core.task import TaskState
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
    real = swarm.queue.exchange

    def exchange(finishes, lanes_for):
        got = real(finishes, lanes_for)
        seen.append((len(finishes), len(got.claims)))
        return got

    monkeypatch.setattr(swarm.queue, "exchange", exchange)
    swarm.work.gate.clear()
    swarm.queue.put(*(llm(f"t{n}") for n in range(8)))
    swarm.until(lambda: len(swarm.work.running) == 4)
    assert max(claimed for _, claimed in seen) == 4
    swarm.work.gate.set()
    swarm.until(lambda: len(swarm.queue.ended) == 8)
    assert sum(claimed for _, claimed in seen) == sum(ended for ended, _ in seen) == 8
