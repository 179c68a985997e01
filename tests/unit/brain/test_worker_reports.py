"""What heartbeats carry for metrics and for who looks for the first time: quiet times, histograms, crashes, ticks."""

import logging

import msgspec

from swarm.brain.apply import Effects
from swarm.brain.brain import Brain
from swarm.brain.observe import Observer
from swarm.config.settings import BrainSettings, Settings
from swarm.core.faults import TaskFault
from swarm.core.policy.decide import DAY_S
from swarm.core.snapshot import FinishedShard, FinishedView
from swarm.core.task import TaskState, Trail
from swarm.core.worker import SlotView
from swarm.runtime.loop import StopWish
from swarm.worker.attempt import Run
from swarm.worker.heartbeat import WorkerState
from tests.helpers.worker_fakes import claim_of, llm, load
from tests.support.builders import MODEL, a_worker
from tests.support.fakes import FakeBrainQueue, FakeClock, FakeHeart, FakeWaiter

replace = msgspec.structs.replace


def test_a_run_knows_since_when_it_stands_still(monkeypatch):
    clock = FakeClock()
    monkeypatch.setattr("swarm.worker.attempt.monotonic", clock.mono_s)
    run = Run(claim_of(llm("t1")), limit_s=10)
    clock.advance(5.0)
    run.begin()
    assert run.view().quiet_s == 0.0, "waiting for its turn is no standing still"
    clock.advance(3.0)
    assert run.view().quiet_s == 3.0
    run._advance(1)
    clock.advance(2.0)
    assert run.view().quiet_s == 2.0
    run.moved_to(run.progress)
    assert run.view().quiet_s == 2.0, "the same number again is no progress"


def test_waits_and_runs_are_counted_by_class_and_only_first_attempts_wait(monkeypatch):
    clock = FakeClock()
    monkeypatch.setattr("swarm.worker.heartbeat.now_iso", clock.iso)
    state = WorkerState(name="w", pid=1, epoch=1)
    claim = claim_of(replace(llm("t1"), created_at=clock.iso()))
    clock.advance(40.0)
    state.claimed(claim)
    state.claimed(replace(claim, attempt=2))
    state.claimed(claim_of(replace(llm("t2"), created_at="yesterday")))
    state.claimed(claim_of(replace(llm("t3"), created_at=clock.iso(99.0))))
    assert state.beat.waits["llm"].total == 2
    assert state.beat.waits["llm"].sum_s == 40.0, "a clock that stepped back gives no negative wait"
    run = Run(claim, limit_s=10)
    run.begin()
    run.elapsed_s, run.ending = 7.5, Trail(result={})
    state.settled(run, "completed")
    never = Run(claim, limit_s=10)
    never.stop("stopping")
    state.settled(never, "released")
    assert (state.beat.runs["llm"].total, state.beat.runs["llm"].sum_s) == (1, 7.5)
    beat = msgspec.json.decode(msgspec.json.encode(state.heartbeat(1)), type=type(state.heartbeat(1)))
    assert beat.runs == state.beat.runs
    assert beat.waits == state.beat.waits


def test_a_load_that_found_no_room_teaches_what_it_would_have_taken():
    state = WorkerState(name="w", pid=1, epoch=1)
    run = Run(claim_of(load("l1", "big:70b")), limit_s=10)
    numbers = {"size_mib": 40_000, "size_vram_mib": 24_000, "no_room": True}
    run.ending = TaskFault("deterministic", "cpu_spill", "too big", numbers)
    state.settled(run, "failed")
    tally = state.beat.models["big:70b"]
    assert (tally.no_room, tally.size_mib, tally.size_vram_mib, tally.load_failures) == (True, 40_000, 24_000, 1)
    run.ending = TaskFault("infra", "load_unproven", "not listed")
    state.settled(run, "failed")
    tally = state.beat.models["big:70b"]
    assert (tally.no_room, tally.size_mib, tally.load_failures) == (False, 40_000, 2), "another reason says nothing of room"
    run.ending = TaskFault("deterministic", "out_of_memory", "cudaMalloc failed", {"no_room": True})
    state.settled(run, "failed")
    assert state.beat.models["big:70b"].no_room
    run.ending = TaskFault("deterministic", "model_missing", "not found")
    state.settled(run, "failed")
    assert (state.beat.models["big:70b"].no_room, state.beat.models["big:70b"].missing) == (False, True)
    assert state.beat.tally.failed == state.beat.tally.completed == 0, "loads are no tasks of anybody's"
    run.ending = Trail(result={"size_mib": 40_000})
    state.ended(run)
    assert (state.beat.models["big:70b"].missing, state.beat.models["big:70b"].load_failures) == (False, 0)


class World:
    def __init__(self, settings=None):
        self.settings = settings or Settings()
        self.clock, self.queue, self.heart = FakeClock(), FakeBrainQueue(), FakeHeart()
        log = logging.getLogger("test.told")
        self.brain = Brain(
            observer=Observer(self.queue, None, self.settings, retention=True, mono_s=self.clock.mono_s),
            effects=Effects(self.queue, lambda _worker, _epoch: True, self.settings, log, mono_s=self.clock.mono_s),
            waiter=FakeWaiter(self.clock),
            heart=self.heart,
            mono_s=self.clock.mono_s,
            settings=self.settings,
            pid=1,
            epoch=1,
            wish=StopWish(lambda: None),
            log=log,
        )


def test_an_observer_without_a_history_believes_the_workers_clock_but_only_for_this_attempt():
    world = World()
    view = a_worker(holding=MODEL)
    slot = SlotView(task_id="t0", task_class="llm", model=MODEL, attempt=1, quiet_s=444.0)
    world.queue.add_worker(replace(view, heartbeat=replace(view.heartbeat, slots=(slot,))))
    world.queue.add_llm(1, MODEL)
    world.queue.claim("t0", "worker-1")
    look = Observer(world.queue, None, world.settings, mono_s=world.clock.mono_s)
    assert look.snapshot().claims[0].quiet_s == 444.0
    other = replace(slot, attempt=2)
    world.queue.add_worker(replace(view, heartbeat=replace(view.heartbeat, slots=(other,))))
    assert look.snapshot().claims[0].quiet_s < 444.0


def test_the_brain_tells_its_ticks_and_how_many_tasks_it_took_back():
    world = World()
    world.queue.add_worker(a_worker(holding=MODEL))
    world.queue.add_llm(2, MODEL)
    world.queue.claim("t0", "worker-1")
    world.brain.step()
    world.queue.add_worker(a_worker(alive=False))
    for _ in range(3):
        world.clock.advance(5.0)
        world.brain.step()
    last = world.heart.beats[-1]
    assert last.tally.crashes == 1
    assert last.ticks.total == 3, "those before this turn"


def test_the_brain_purges_in_bounded_turns_and_says_so(caplog):
    caplog.set_level(logging.INFO, "test.told")
    world = World(Settings(brain=BrainSettings(retention_days=7)))
    shard = FinishedShard(state=TaskState.COMPLETED, shard="a", documents=2500, oldest_age_s=8 * DAY_S)
    world.queue.finished_view = FinishedView(documents=2500, old=(shard,))
    world.queue.purgeable = {(TaskState.COMPLETED, "a"): 2500}
    for _ in range(4):
        world.clock.advance(1.0)
        world.brain.step()
    assert world.queue.purgeable[TaskState.COMPLETED, "a"] == 0
    said = [r.message for r in caplog.records if "Purged" in r.message]
    assert [line.split()[1] for line in said] == ["1000", "1000", "500"]
    assert "older than 7 days (brain.retention_days)" in said[0]


def test_without_a_setting_nothing_is_looked_at_or_purged():
    world = World()
    world.queue.finished_view = FinishedView(
        documents=1, old=(FinishedShard(state=TaskState.FAILED, shard="a", documents=1, oldest_age_s=1e9),)
    )
    world.queue.purgeable = {(TaskState.FAILED, "a"): 1}
    world.brain.step()
    assert world.queue.purgeable[TaskState.FAILED, "a"] == 1
