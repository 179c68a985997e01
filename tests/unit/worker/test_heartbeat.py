"""The heartbeat thread: on time, at once when asked, not too often, and whatever the disk says."""

from __future__ import annotations

import logging
import time

import pytest

from swarm.core.worker import WorkerStatus
from swarm.worker.heartbeat import MIN_GAP_S, HeartbeatThread, WorkerState
from tests.helpers.wait import wait_until
from tests.helpers.worker_fakes import Beats, Harness, llm


def make(period_s: float, sink: Beats) -> tuple[WorkerState, HeartbeatThread]:
    state = WorkerState(name="worker-1", pid=7, epoch=3)
    log = logging.getLogger("worker-1")
    return state, HeartbeatThread(beat_of=state.heartbeat, sink=sink, period_s=period_s, log=log)


@pytest.fixture
def sink():
    return Beats()


def test_it_beats_by_itself_with_rising_numbers(sink, caplog):
    caplog.set_level(logging.DEBUG)
    state, beats = make(0.06, sink)
    state.publish(status=WorkerStatus.IDLE)
    beats.start()
    wait_until(lambda: len(sink.all) >= 3)
    beats.stop()
    assert [beat.seq for beat in sink.all] == list(range(1, len(sink.all) + 1))
    assert (sink.last.name, sink.last.pid, sink.last.epoch) == ("worker-1", 7, 3)
    assert "Heartbeat sent - status: idle, idle: 0s" in caplog.text


def test_it_beats_at_once_when_asked(sink):
    state, beats = make(60, sink)
    beats.start()
    wait_until(lambda: len(sink.all) == 1)
    state.publish(model="a:latest")
    beats.beat_within(0.0)
    wait_until(lambda: sink.last.model == "a:latest")
    beats.stop()


def test_however_often_it_is_asked_it_rests_between_beats(sink):
    _, beats = make(60, sink)
    beats.start()
    began_s = time.monotonic()
    while time.monotonic() - began_s < 0.4:
        beats.beat_within(0.0)
        time.sleep(0.001)
    beats.stop()
    assert len(sink.all) <= (time.monotonic() - began_s) / MIN_GAP_S + 3


def test_a_disk_that_refuses_is_named_once_and_survived(sink, caplog):
    sink.broken = "No space left on device"
    _, beats = make(0.06, sink)
    beats.start()
    wait_until(lambda: "cannot be written" in caplog.text)
    sink.broken = ""
    wait_until(lambda: len(sink.all) >= 2)
    beats.stop()
    assert caplog.text.count("cannot be written") == 1


def test_the_last_beat_says_stopped(sink):
    state, beats = make(60, sink)
    beats.start()
    state.publish(status=WorkerStatus.STOPPED)
    beats.stop()
    assert sink.last.status is WorkerStatus.STOPPED


def test_an_unexpected_error_is_logged_and_shows(sink, caplog):
    _, beats = make(0.01, sink)
    sink.beat = lambda heartbeat: 1 / 0  # type: ignore[assignment,method-assign]
    beats.start()
    wait_until(lambda: beats.failed)
    assert "ZeroDivisionError" in caplog.text


def test_the_pulse_shows_what_runs_and_how_far_it_is():
    swarm = Harness(heartbeat_s=0.05).warm()
    swarm.work.gate.clear()
    swarm.queue.put(llm("t1"))
    swarm.until(lambda: swarm.sink.last.slots and swarm.sink.last.slots[0].progress > 3)
    slot = swarm.sink.last.slots[0]
    assert (slot.task_id, slot.task_class, slot.model, slot.phase) == ("t1", "llm", "a", "running")
    assert swarm.sink.last.status is WorkerStatus.BUSY
    assert swarm.sink.last.idle_s == 0
    swarm.work.gate.set()
    swarm.until(lambda: "t1" in swarm.queue.ended)


def test_a_change_of_model_is_published_at_once():
    swarm = Harness()
    swarm.until(lambda: swarm.state.model == "a:latest")
    wait_until(lambda: swarm.sink.last.model == "a:latest")
