"""The brain's turns against a queue in memory: what it does, says, waits for, and does when it breaks."""

from __future__ import annotations

import logging
import re

import msgspec
import pytest

from swarm.brain.apply import Applied, Effects, Failed, Stale
from swarm.brain.brain import PAUSE_S, Brain
from swarm.brain.main import _brain
from swarm.brain.observe import Observer
from swarm.config.settings import QueueSettings, Settings
from swarm.core.policy.decisions import KillWorker, LoadModel
from swarm.core.snapshot import BlockedView
from swarm.core.worker import SlotView
from swarm.errors import EngineError, StorageFault
from swarm.runtime.bootstrap import RunOptions
from swarm.runtime.loop import EXIT_CRASHED, StopWish, run_loop
from tests.helpers.queues import prepared
from tests.support.builders import MODEL, a_heartbeat, a_worker, cold_workers, live_waiting
from tests.support.fakes import FakeBrainQueue, FakeClock, FakeHeart, FakeWaiter

replace = msgspec.structs.replace


class World:
    def __init__(self, caplog):
        self.log = logging.getLogger("test.brain")
        caplog.set_level(logging.DEBUG, "test.brain")
        self.caplog = caplog
        self.settings = Settings()
        self.clock = FakeClock()
        self.queue = FakeBrainQueue()
        self.heart = FakeHeart()
        self.waiter = FakeWaiter(self.clock)
        self.killed = []
        self.wish = StopWish(lambda: None)
        self.kill_answer = True
        self.effects = Effects(self.queue, self.kill, self.settings, self.log, mono_s=self.clock.mono_s)
        self.brain = Brain(
            observer=Observer(self.queue, None, self.settings, mono_s=self.clock.mono_s),
            effects=self.effects,
            waiter=self.waiter,
            heart=self.heart,
            mono_s=self.clock.mono_s,
            settings=self.settings,
            pid=1,
            epoch=3,
            wish=self.wish,
            log=self.log,
        )

    def kill(self, worker, epoch):
        if isinstance(self.kill_answer, Exception):
            raise self.kill_answer
        self.killed.append((worker, epoch))
        return self.kill_answer

    def turns(self, count, *, beating=True):
        """Turns a second apart; living workers go on beating."""
        for _ in range(count):
            if beating:
                for view in list(self.queue.worker_views.values()):
                    if view.heartbeat is not None:
                        beat = replace(view.heartbeat, seq=view.heartbeat.seq + 1, turn=view.heartbeat.turn + 1)
                        self.queue.add_worker(replace(view, heartbeat=beat))
            self.brain.step()
            self.clock.advance(1.0)

    def said(self, pattern, *, level=logging.INFO):
        return [r.message for r in self.caplog.records if r.levelno >= level and re.search(pattern, r.message)]

    def become(self, name, **changes):
        view = self.queue.worker_views[name]
        beat = replace(view.heartbeat, **changes)
        self.queue.add_worker(replace(view, heartbeat=beat))


@pytest.fixture
def world(caplog):
    return World(caplog)


def test_the_incident_four_cold_workers_and_125_tasks(world):
    for view in cold_workers(4):
        world.queue.add_worker(view)
    world.queue.add_llm(125, MODEL)
    world.turns(5)
    assert len(world.queue.documents) == 4
    assert {d["target_worker"] for d in world.queue.documents} == {f"worker-{n}" for n in range(1, 5)}
    lines = world.said("inserting load_llm task")
    assert len(lines) == 4
    assert lines[0] == (
        "LLM tasks waiting (125) but no models loaded - inserting load_llm task"
        " for worker-1: llama3.2:3b (load-worker-1-llama3-2-3b-e1-r0)"
    )


def test_a_dead_workers_tasks_are_taken_back_in_the_very_turn_it_is_seen_dead(world):
    world.queue.add_worker(a_worker(holding=MODEL))
    world.queue.add_llm(2, MODEL)
    world.queue.claim("t0", "worker-1")
    world.turns(1)
    assert list(world.waiter.watched) == ["worker-1"]
    world.queue.add_worker(a_worker(alive=False))
    assert world.brain.step() <= PAUSE_S
    assert "t0" in world.queue.pending
    assert world.said(r"Worker worker-1 died holding 1 tasks - requeued 1", level=logging.WARNING)
    assert world.said("Requeued t0")
    assert world.waiter.watched == {}


def test_hung_workers_are_killed_once_and_said_once(world):
    world.queue.add_worker(a_worker(epoch=7))
    world.turns(59, beating=False)
    assert world.killed == []
    assert world.said(r"Worker worker-1 last heartbeat 16s ago \(threshold: 15s\)", level=logging.WARNING)
    world.turns(10, beating=False)
    assert set(world.killed) == {("worker-1", 7)}
    assert len(world.said("killing it")) == 1
    assert len(world.said("last heartbeat", level=logging.WARNING)) == 2, "the alarm, and the kill"


def test_alarms_are_said_once_and_cleared_once(world):
    world.queue.add_worker(a_worker())
    world.turns(30, beating=False)
    world.turns(3)
    assert len(world.said("^Worker worker-1 last heartbeat", level=logging.WARNING)) == 1
    assert len(world.said("^Cleared: Worker worker-1 last heartbeat")) == 1


def test_an_alarm_outlasts_a_turn_of_grace(world):
    world.queue.add_worker(a_worker())
    world.turns(20, beating=False)
    world.clock.advance(100)
    world.brain.step()
    assert world.said("Cleared") == []


def test_monitor_line_when_it_changes_but_not_in_a_rush_and_now_and_then_while_there_is_work(world):
    world.queue.add_worker(a_worker(holding=MODEL))
    world.turns(60)
    assert len(world.said("^MONITOR")) == 1, "an idle swarm repeats nothing"
    for _ in range(20):
        world.queue.add_llm(1, MODEL)
        world.turns(1)
    assert 4 <= len(world.said("^MONITOR")) <= 6
    before = len(world.said("^MONITOR"))
    world.turns(65)
    assert len(world.said("^MONITOR")) - before in (2, 3)


def test_stuck_tasks_are_said_when_the_set_changes(world):
    world.queue.add_worker(
        replace(
            a_worker(), heartbeat=a_heartbeat("worker-1", holding=MODEL, slots=[SlotView(task_id="t0", task_class="llm")])
        )
    )
    world.queue.add_llm(1, MODEL)
    world.queue.claim("t0", "worker-1")
    world.turns(400)
    lines = world.said("^Stuck tasks detected", level=logging.WARNING)
    assert len(lines) == 1
    assert lines[0].startswith("Stuck tasks detected: [{'task_id': 't0', 'assigned_to': 'worker-1', 'elapsed_min': 5")
    world.queue.held.clear()
    world.turns(1)
    assert world.said("Stuck tasks: none any more")


def test_a_full_disk_is_said_when_it_comes_and_goes_and_stops_nothing_else(world):
    for view in cold_workers(2):
        world.queue.add_worker(view)
    world.queue.add_llm(9, MODEL)
    world.queue.fault = StorageFault("no space left on device")
    world.heart.fault = StorageFault("no space left on device")
    world.turns(5)
    assert world.queue.documents == []
    assert len(world.said("Could not insert load-worker-1", level=logging.ERROR)) == 1
    assert len(world.said("Could not insert load-worker-2", level=logging.ERROR)) == 1
    assert len(world.said("cannot write its heartbeat", level=logging.ERROR)) == 1
    world.queue.fault = world.heart.fault = None
    world.turns(3)
    assert len(world.queue.documents) == 2
    assert len(world.said("Possible again")) == 2
    assert world.said("can write its heartbeat again")


def test_nobody_is_killed_for_a_silence_that_the_disk_imposes(world):
    """They hold results that are put on record once there is room."""
    world.queue.add_worker(a_worker(holding=MODEL, epoch=7))
    world.heart.fault = StorageFault("no space left on device")
    world.turns(600, beating=False)
    world.heart.fault = None
    world.turns(50, beating=False)
    assert world.killed == []
    world.turns(20, beating=False)
    assert set(world.killed) == {("worker-1", 7)}, "it may write now, and says nothing"


def test_a_queue_that_cannot_be_read_is_tried_again(world, monkeypatch):
    def broken(_old_after_s):
        raise StorageFault("input/output error")

    monkeypatch.setattr(world.queue, "look", broken)
    assert [world.brain.step(), world.brain.step()] == [1.0, 1.0]
    assert len(world.said("cannot read the queue", level=logging.ERROR)) == 1
    monkeypatch.undo()
    world.turns(1)
    assert world.said("can read the queue again")


def test_a_withdrawn_load_can_be_wanted_again(world):
    """Its id is used up, since the worker ended no resource task since; the deficit must not stay open for ever."""
    world.queue.add_worker(a_worker())
    world.queue.add_llm(9, MODEL)
    world.turns(1)
    first = world.queue.loads()
    world.queue.withdraw(first[0], "somebody cancelled it")
    world.turns(2)
    assert world.queue.loads() == [], "for now the worker may just have ended it"
    world.turns(6)
    assert world.queue.loads() == [f"{first[0]}-2"]


def test_right_after_a_load_a_late_heartbeat_causes_no_second_one(world):
    world.queue.add_worker(a_worker())
    world.queue.add_llm(9, MODEL)
    world.turns(1)
    task_id = world.queue.loads()[0]
    del world.queue.pending[task_id]
    world.queue.ended[task_id] = "completed"
    world.turns(2)
    world.become("worker-1", model=MODEL, resource_seq=1)
    world.turns(10)
    assert len(world.queue.documents) == 1


def test_waits_no_longer_than_until_a_card_may_be_given_to_clients(world):
    world.queue.add_worker(a_worker(holding="b:1"))
    world.queue.add_llm(500, "b:1")
    world.queue.live = (live_waiting(1, "a:1"),)
    for _ in range(5):
        world.queue.live_written_at = str(world.clock.now_s)
        assert world.brain.step() == 1.0
        world.clock.advance(1.96)
    assert world.brain.step() == pytest.approx(0.2)
    world.clock.advance(0.2)
    assert world.queue.loads() == []
    world.brain.step()
    assert len(world.queue.loads()) == 1, "batch work has had the card for as long as a load takes"


def test_waits_until_the_next_thing_falls_due(world):
    assert world.brain.step() == 1.0
    world.queue.drop_in_files["a.json"] = 0.05
    assert world.brain.step() == pytest.approx(0.2)
    world.queue.drop_in_files.clear()
    world.queue.blocked_views["b"] = BlockedView(task_id="b", attempt=1, due_in_s=0.5)
    assert world.brain.step() == 0.5
    world.queue.blocked_views["b"] = BlockedView(task_id="b", attempt=1, due_in_s=0.0)
    assert world.brain.step() == PAUSE_S
    assert "b" in world.queue.pending


def test_first_deaths_alone_then_rings_too(world):
    world.brain.wait(1.0)
    assert world.waiter.waits == [(PAUSE_S, False), (1.0 - PAUSE_S, True)]
    world.waiter.waits.clear()
    world.waiter.on_wait = lambda: True
    world.brain.wait(1.0)
    assert world.waiter.waits == [(PAUSE_S, False)], "a death is answered at once"


def test_it_beats_its_own_heart(world):
    world.turns(10)
    assert [b.seq for b in world.heart.beats] == [1, 2, 3, 4, 5]
    assert {(b.name, b.epoch) for b in world.heart.beats} == {("brain", 3)}
    world.brain.close()
    assert world.heart.beats[-1].status == "stopped"


def test_an_unexpected_exception_ends_it_with_its_traceback(world, monkeypatch):
    def broken(_old_after_s):
        raise RuntimeError("a bug")

    monkeypatch.setattr(world.queue, "look", broken)
    assert run_loop(world.brain, wait=world.brain.wait, log=world.log) == EXIT_CRASHED
    assert "RuntimeError: a bug" in world.caplog.text
    assert "Traceback" in world.caplog.text


def test_it_ends_when_asked(world):
    world.wish.ask()
    assert run_loop(world.brain, wait=world.brain.wait, log=world.log) == 0


def test_effects_answer_stale_where_the_world_has_changed(world):
    load = LoadModel(worker="w", model=MODEL, epoch=1, task_id="load-w-x-e1-r0", instead_of="load-w-y-e1-r0", reason="r")
    assert isinstance(world.effects.apply(load), Stale), "the one to replace was claimed"
    assert world.queue.documents == []
    plain = replace(load, instead_of=None)
    assert isinstance(world.effects.apply(plain), Applied)
    assert isinstance(world.effects.apply(plain), Stale)
    kill = KillWorker(worker="w", epoch=1, reason="hung")
    world.kill_answer = False
    assert isinstance(world.effects.apply(kill), Stale)
    world.kill_answer = EngineError("not permitted")
    assert world.effects.apply(kill) == Failed(kill, "not permitted")


def test_logs_of_model_servers_are_kept_small_with_a_supervisor_or_without(tmp_path, monkeypatch):
    trimmed = []
    monkeypatch.setattr("swarm.supervisor.what_runs.truncate_if_large", trimmed.append)
    queue = prepared(str(tmp_path / "queue"), "fast")
    of_server = tmp_path / "queue" / "logs" / "ollama-worker-1.log"
    of_server.touch()
    options = RunOptions(settings=Settings(queue=QueueSettings(root=queue.layout.root)))
    brain = _brain(queue, options, FakeWaiter(FakeClock()), StopWish(lambda: None), 1, logging.getLogger("test.brain"))
    brain.step()
    brain.step()
    assert trimmed == [of_server]
