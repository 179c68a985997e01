"""Live requests beside batch work in a worker's turns: what is let in when, what gives way, and what it costs the batch."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from swarm.config.settings import LlmSettings, Settings, WorkerSettings
from swarm.core.faults import TaskFault
from swarm.core.lanes import Pause, Pauses
from swarm.core.live.live_request import Refusal
from swarm.core.task import Trail
from swarm.core.worker import WorkerStatus
from swarm.worker.attempt import Run
from tests.helpers.wait import wait_until
from tests.helpers.worker_fakes import Harness, holds, llm, load


class Answers:
    """A model server's answer to one live request."""

    async def run(self, claim, *, progress):
        progress(1)
        return Trail(result={"usage": {"prompt_tokens": 2, "completion_tokens": 3}})


class Breaks:
    async def run(self, claim, *, progress):
        raise TaskFault("infra", "server_down", "nothing listens")


def gate_of(swarm: Harness):
    assert swarm.worker.live is not None
    return swarm.worker.live


def enter(swarm: Harness, task_id: str = "live", model: str = "a") -> Run:
    run = gate_of(swarm).enter(llm(task_id, model), 30.0)
    assert isinstance(run, Run), run
    return run


def refusal(swarm: Harness, model: str = "a") -> str:
    found = gate_of(swarm).enter(llm("refused", model), 30.0)
    assert isinstance(found, Refusal), found
    return found.kind


def end(swarm: Harness, run: Run, how: object = None) -> None:
    """As the event loop does it."""
    asyncio.run(run.ask(how or Answers()))  # type: ignore[arg-type]
    gate_of(swarm).ended(run)


def full(slots: int = 4) -> Harness:
    """A worker whose slots are all taken by batch requests that go on until ``work.gate`` is set."""
    swarm = Harness(slots=slots).warm()
    swarm.work.gate.clear()
    swarm.queue.put(*(llm(f"t{n}") for n in range(slots + 2)))
    swarm.until(lambda: len(swarm.work.running) == slots)
    return swarm


def test_the_youngest_batch_request_gives_way_untouched(monkeypatch):
    swarm = full()
    first = sorted(swarm.work.running)
    run = enter(swarm)
    swarm.until(lambda: swarm.queue.released and len(swarm.work.running) == 3)
    assert len(swarm.queue.released) == 1
    assert swarm.queue.released[0] in first
    for _ in range(20):
        swarm.turn()
    assert len(swarm.work.running) == 3, "the live request has the fourth place"
    end(swarm, run)
    for _ in range(20):
        swarm.turn()
    assert len(swarm.work.running) == 3, "its place is kept for the next one"
    places = gate_of(swarm)
    assert enter(swarm, "next").claim.task.task_id == "next"
    assert len(swarm.queue.released) == 1, "which takes nobody's place"
    assert places.yielded == 1
    monkeypatch.setattr("swarm.core.live.places.KEEP_S", 0.0)
    end(swarm, places._live["next"])
    swarm.work.gate.set()
    swarm.until(lambda: len(swarm.queue.ended) == 5)  # the queue in memory has no place for what was released
    assert not swarm.queue.retries
    assert [len(trail.attempts) for _, trail in swarm.queue.ended.values()] == [1] * 5
    tally = swarm.state.models["a:latest"]
    assert (tally.completed, tally.tokens_out) == (5, 5 * 3 + 2 * 3), "live tokens count, live requests are no tasks"
    assert swarm.state.tally.completed == 5


def test_what_began_in_the_slot_of_a_live_request_gives_way_at_once(monkeypatch):
    swarm = Harness(slots=2).warm()
    swarm.work.gate.clear()
    exchange = swarm.worker._exchange
    tick = exchange.tick

    def tick_and_enter(*how, **more):
        """It comes when the batch has claimed for both slots and not begun."""
        is_full = tick(*how, **more)
        if swarm.queue.held and "live" not in gate_of(swarm)._live:
            enter(swarm)
        return is_full

    monkeypatch.setattr(exchange, "tick", tick_and_enter)
    swarm.queue.put(llm("t1"), llm("t2"))
    swarm.until(lambda: len(swarm.queue.released) == 1 and len(swarm.work.running) == 1)


def test_no_more_than_the_share_and_no_id_twice():
    swarm = full(4)
    enter(swarm, "one")
    with pytest.raises(TaskFault, match="here already"):
        gate_of(swarm).enter(llm("one"), 30.0)
    with pytest.raises(TaskFault, match="here already"):
        gate_of(swarm).enter(llm(next(iter(swarm.work.running))), 30.0)
    enter(swarm, "two")
    assert refusal(swarm) == "busy"
    assert refusal(swarm, "b") == "model_not_loaded"


def test_one_slot_is_given_too_until_the_share_of_the_time_is_used_up():
    swarm = full(1)
    end(swarm, enter(swarm))
    gate = gate_of(swarm)
    gate._use = msgspec.structs.replace(gate._use, credit_s=-1000.0)
    released = swarm.queue.released
    swarm.until(
        lambda: released and swarm.work.running - set(released), "the batch goes on: without credit no place is kept"
    )
    swarm.until(lambda: not swarm.work.running & set(released))
    assert refusal(swarm) == "busy"


def test_a_load_that_live_requests_wait_for_needs_not_wait_for_batch_requests():
    swarm = full(4)
    swarm.queue.put(load("common", "b"))
    for _ in range(20):
        swarm.turn()
    assert "common" not in swarm.work.running
    swarm = full(4)
    live = load("urgent", "b")
    live.metadata["live"] = True
    swarm.queue.put(live)
    swarm.until(lambda: "urgent" in swarm.work.running)
    assert len(swarm.queue.released) == 4
    assert swarm.work.running == {"urgent"}
    assert refusal(swarm) == "model_not_loaded", "nobody is let in beside a load"
    swarm.probe.reading = holds("b:latest")
    swarm.work.gate.set()
    swarm.until(lambda: swarm.state.model == "b:latest" and "urgent" in swarm.queue.ended)
    enter(swarm, model="b")
    assert not swarm.queue.retries


def test_a_fault_of_a_live_request_is_nobodys_attempt():
    swarm = Harness().warm()
    end(swarm, enter(swarm), Breaks())
    swarm.queue.put(llm("t1"))
    swarm.until(lambda: "t1" in swarm.queue.ended)
    assert not swarm.queue.retries
    assert swarm.state.tally.failed == 0


def test_a_worker_that_drains_waits_for_live_requests_and_lets_no_more_in():
    swarm = Harness().warm().start()
    run = enter(swarm)
    swarm.wish.ask()
    wait_until(lambda: swarm.state.status is WorkerStatus.DRAINING)
    assert refusal(swarm) == "draining"
    assert swarm.exit_code is None
    end(swarm, run)
    wait_until(lambda: swarm.exit_code == 0)


def test_a_paused_worker_lets_nobody_in():
    settings = Settings(worker=WorkerSettings(poll_s=0.02), llm=LlmSettings(slots=1))
    swarm = Harness(settings=settings).warm()
    swarm.queue.paused = Pauses(pauses=(Pause(kind="worker", name="worker-1"),))
    swarm.until(lambda: swarm.worker._exchange.paused)
    swarm.turn()
    assert refusal(swarm) == "unready"
