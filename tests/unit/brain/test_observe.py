"""The observer's ages: its own clock, its own eyes."""

from __future__ import annotations

import msgspec
import pytest

from swarm.brain.observe import LATE_MARGIN_S, Observer
from swarm.config.settings import Settings
from swarm.core.health.liveness import condition
from swarm.core.health.visible_gpus import Visibility
from swarm.core.live.demand import KEPT_S, STALE_S
from swarm.core.placement.fit import card_memory_mib
from swarm.core.snapshot import LiveView
from swarm.core.worker import ModelTally, SlotView, WorkerStatus
from tests.support.builders import MODEL, a_card, a_heartbeat, a_worker
from tests.support.fakes import FakeBrainQueue, FakeClock

replace = msgspec.structs.replace


class World:
    visibility = Visibility(note="1 of 4 cards: CUDA_VISIBLE_DEVICES=1")

    def __init__(self):
        self.queue = FakeBrainQueue()
        self.clock = FakeClock()
        self.reads = 0
        self.observer = Observer(self.queue, self, Settings(), mono_s=self.clock.mono_s)

    def read(self):
        self.reads += 1
        return (a_card(),)

    def worker(self, **heartbeat):
        view = a_worker(beating=False)
        self.queue.add_worker(replace(view, heartbeat=a_heartbeat("worker-1", **heartbeat)))

    def after(self, seconds, *, step_s=1.0):
        """The snapshot after looking each second for so long."""
        snapshot = self.observer.snapshot()
        end_s = self.clock.now_s + seconds
        while self.clock.now_s < end_s:
            self.clock.advance(min(step_s, end_s - self.clock.now_s))
            snapshot = self.observer.snapshot()
        return snapshot


@pytest.fixture
def world():
    return World()


def test_a_heartbeat_ages_from_when_its_number_was_last_seen_to_change(world):
    world.worker(seq=1, turn=1)
    assert world.after(5).workers[0].quiet_s == 5
    world.worker(seq=2, turn=1)
    view = world.after(0).workers[0]
    assert (view.quiet_s, view.turn_quiet_s) == (0, 5)


def test_a_new_life_starts_young(world):
    world.worker(seq=1)
    world.after(5)
    world.queue.add_worker(a_worker(epoch=2, beating=False))
    assert world.after(0).workers[0].quiet_s == 0
    assert world.after(3).workers[0].quiet_s == 3


def test_after_a_gap_of_its_own_nobody_is_judged(world):
    world.worker(seq=1)
    assert world.after(5).workers[0].quiet_s == 5
    world.clock.advance(600)
    late = world.observer.snapshot()
    assert late.grace
    allowed_s = 2 * Settings().brain.tick_s + LATE_MARGIN_S
    assert late.workers[0].quiet_s == 5 + allowed_s, "of the gap no more is held against anybody than a turn may take"
    world.clock.advance(1)
    next_one = world.observer.snapshot()
    assert not next_one.grace
    assert next_one.workers[0].quiet_s == 6 + allowed_s


@pytest.mark.parametrize("turns_s", [(3.1,), (60.0,), (3.1, 0.5), (3.1, 3.1, 0.5)])
def test_a_brain_whose_turns_are_slow_judges_all_the_same(world, turns_s):
    world.worker(seq=1)
    judged = []
    for turn_s in turns_s * 60:
        world.clock.advance(turn_s)
        snapshot = world.observer.snapshot()
        judged += [] if snapshot.grace else [condition(snapshot.workers[0], snapshot, Settings()).state]
    assert judged[0] != "hung"
    assert judged[-1] == "hung"


def test_claims_take_their_progress_from_the_heartbeat(world):
    slot = SlotView(task_id="t0", task_class="llm", name="q1", model=MODEL, attempt=1, progress=5)
    world.worker(seq=1, slots=[slot])
    world.queue.add_llm(1, MODEL)
    world.queue.claim("t0", "worker-1")
    claim = world.after(4).claims[0]
    assert (claim.task_class, claim.model, claim.progress) == ("llm", MODEL, 5)
    assert (claim.elapsed_s, claim.quiet_s) == (4, 4)
    world.worker(seq=2, slots=[replace(slot, progress=6)])
    claim = world.after(0).claims[0]
    assert (claim.elapsed_s, claim.quiet_s) == (4, 0)
    world.worker(seq=3, slots=[replace(slot, attempt=9)])
    assert world.after(0).claims[0].progress == 0, "a slot of another attempt says nothing of this claim"


def test_a_lane_is_unserved_while_nobody_holds_its_model(world):
    world.queue.add_llm(3, MODEL)
    world.worker(seq=1)
    assert world.after(7).lanes[0].unserved_s == 7
    world.worker(seq=2, holding=MODEL)
    assert world.after(2).lanes[0].unserved_s == 0
    world.worker(seq=3)
    assert world.after(2).lanes[0].unserved_s == 2


def test_who_takes_no_work_serves_no_lane_whatever_it_holds(world):
    world.queue.add_llm(3, MODEL)
    world.worker(seq=1, holding=MODEL)
    assert world.after(2).lanes[0].unserved_s == 0
    world.worker(seq=2, holding=MODEL, status=WorkerStatus.UNREADY, reason="its card is hot")
    assert world.after(7).lanes[0].unserved_s == 7


def test_how_long_a_model_is_held_and_a_failure_is_old(world):
    world.worker(seq=1, holding=MODEL, learned={"b:1": ModelTally(load_failures=1)})
    view = world.after(6).workers[0]
    assert (view.held_s, view.load_failed_s) == (6, {"b:1": 6})
    world.worker(seq=2, holding="b:1", learned={"b:1": ModelTally(load_failures=2)})
    view = world.after(0).workers[0]
    assert (view.held_s, view.load_failed_s) == (0, {"b:1": 0})


def test_cards_are_read_seldom(world):
    assert world.after(10, step_s=0.5).gpus == (a_card(),)
    assert 4 <= world.reads <= 6


def far_worker(name, *cards, node="box2", **more):
    view = a_worker(name, node=node, **more)
    row = replace(view.row, gpu_uuids=tuple(card.uuid for card in cards))
    return replace(view, row=row, heartbeat=replace(view.heartbeat, cards=cards))


def test_cards_of_other_machines_are_those_that_their_living_workers_tell_of(world):
    far = replace(a_card(0, total_mib=8000), uuid="GPU-far")
    shared = replace(a_card(0), uuid="GPU-0", temperature_c=50)
    world.queue.add_worker(far_worker("box2-gpu0", far))
    world.queue.add_worker(far_worker("gone", replace(far, uuid="GPU-gone"), alive=False))
    world.queue.add_worker(far_worker("here", replace(far, uuid="GPU-here"), node=""))
    snapshot = world.observer.snapshot()
    assert snapshot.gpus == (a_card(), replace(far, node="box2"))
    assert card_memory_mib(snapshot.worker("box2-gpu0"), snapshot) == 8000
    world.queue.add_worker(far_worker("box1-gpu0", shared, node="box1"))
    assert [(card.node, card.uuid) for card in world.observer.snapshot().gpus] == [("box1", "GPU-0"), ("box2", "GPU-far")]


def test_a_card_of_another_machine_is_never_taken_for_one_that_is_called_by_its_index_here(world):
    world.queue.add_worker(far_worker("box2-gpu0", replace(a_card(0, total_mib=8000, fault="lost"), uuid="GPU-far")))
    here = a_worker("worker-1")
    world.queue.add_worker(replace(here, row=replace(here.row, gpu_uuids=("0",))))
    snapshot = world.observer.snapshot()
    assert card_memory_mib(snapshot.worker("worker-1"), snapshot) == a_card().memory_total_mib
    states = {view.name: condition(view, snapshot, Settings()).state for view in snapshot.workers}
    assert states == {"worker-1": "ready", "box2-gpu0": "card_lost"}


def test_what_is_gone_is_forgotten(world):
    world.queue.add_llm(50, MODEL)
    for n in range(50):
        world.queue.claim(f"t{n}", "worker-1")
    world.after(0)
    world.queue.held.clear()
    world.after(1)
    assert len(world.observer._judged._seen) <= 1
    assert len(world.observer._elapsed._seen) <= 1


def test_the_snapshot_says_which_of_the_machines_cards_it_shows():
    assert World().observer.snapshot().gpus_note == World.visibility.note


def say(world, at, **numbers):
    """What the HTTP server says at that moment."""
    world.queue.live = (LiveView(model=MODEL, **numbers),)
    world.queue.live_written_at = str(at)


def test_live_requests_age_from_when_they_were_seen(world):
    say(world, 1, waiting=1, oldest_s=0.5)
    (seen,) = world.after(3).live
    assert (seen.oldest_s, seen.wanted_s, seen.idle_s) == (3.5, 3, 0)
    say(world, 2, in_flight=1)
    (seen,) = world.after(2).live
    assert (seen.oldest_s, seen.wanted_s, seen.idle_s) == (0, 5, 0)
    say(world, 3)
    assert world.after(4).live[0].idle_s == 4
    say(world, 4, waiting=1)
    (seen,) = world.after(0).live
    assert (seen.wanted_s, seen.idle_s) == (9, 0), "a gap as short as that is none"


def test_a_model_is_kept_for_a_while_after_its_last_live_request_whatever_the_server_says(world):
    for at in range(int(KEPT_S) + 1):
        say(world, at)
        (seen,) = world.after(0 if at == 0 else 1).live
        assert seen.keeps == (at < KEPT_S)


def test_a_model_that_was_not_wanted_for_long_is_wanted_anew(world):
    say(world, 1, waiting=1)
    world.after(5)
    world.queue.live = ()
    world.after(Settings().brain.max_wait_s + 1)
    say(world, 2, waiting=1)
    assert world.after(2).live[0].wanted_s == 2
    assert len(world.observer._wanted._seen) == 1


def test_what_a_server_that_hangs_has_said_is_ignored(world):
    say(world, 1, waiting=1)
    assert world.after(STALE_S).live
    assert not world.after(1).live
    say(world, 2, waiting=1)
    assert world.after(0).live
