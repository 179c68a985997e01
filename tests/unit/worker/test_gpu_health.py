"""Cards that get hot or lost: the verdict, and what a worker does about it."""

from __future__ import annotations

import logging

import msgspec
import pytest

from swarm.config.settings import GpuSettings
from swarm.core.gpu_reading import GpuReading
from swarm.core.health.gpu_health import CardVerdict, judge_cards
from swarm.core.worker import WorkerStatus
from swarm.gpu.simulated import SimulatedReader
from swarm.worker.gpu_checks import CardWatch
from tests.helpers.worker_fakes import Harness, llm, script

SETTINGS = GpuSettings(warn_c=85, resume_c=80)


def card(uuid="GPU-0", *, index=0, c=None, fault=None):
    return GpuReading(index=index, uuid=uuid, name="Test", temperature_c=c, fault=fault)


def judged(*readings, before=None, uuids=("GPU-0",)):
    return judge_cards(readings, uuids, before or CardVerdict(), SETTINGS)


@pytest.mark.parametrize(
    ("c", "was_hot", "hot"), [(84, False, False), (85, False, True), (81, True, True), (80, True, False)]
)
def test_a_card_rests_from_the_warning_until_it_has_cooled(c, was_hot, hot):
    assert judged(card(c=c), before=CardVerdict(hot=was_hot)).hot is hot


def test_the_reason_has_the_numbers():
    assert judged(card(c=91)).reason == "GPU 0 is at 91 °C (limit 85): no llm work until it is down to 80"


def test_what_is_not_told_is_not_judged():
    assert judged(card()) == CardVerdict()
    assert judged(card(), before=CardVerdict(hot=True)) == CardVerdict()
    assert judged() == CardVerdict()
    assert judged(card("GPU-7", c=99)).reason == "the driver does not list GPU-0 any more"


def test_the_hottest_of_several_cards_counts_and_others_do_not():
    two = (card(c=70), card("GPU-1", index=1, c=88), card("GPU-2", index=2, c=99))
    assert "GPU 1" in judged(*two, uuids=("GPU-0", "GPU-1")).reason


def test_one_bad_reading_is_no_lost_card():
    once = judged(card(fault="GPU is lost"))
    assert once.reason == "GPU 0 cannot be read: GPU is lost"
    assert not once.lost
    assert judged(card(fault="GPU is lost"), before=once).lost
    assert judged(card(c=40), before=once) == CardVerdict()


class World:
    """A worker with one simulated card whose state the test writes."""

    def __init__(self, tmp_path, **more):
        self.dir = tmp_path / "SIM-GPU-0"
        self.dir.mkdir()
        self.lost = []
        reader = SimulatedReader(1, 1000, [self.dir])
        watch = CardWatch(
            reader,
            uuids=["SIM-GPU-0"],
            settings=GpuSettings(check_s=0.02),
            log=logging.getLogger("worker-1"),
            on_lost=self.lost.append,
        )
        self.harness = Harness(cards=watch, **more).warm()

    def say(self, **state):
        fresh = self.dir / ".state.tmp"
        fresh.write_bytes(msgspec.json.encode(state))
        fresh.replace(self.dir / "state.json")


def test_a_hot_card_gets_no_more_llm_work_but_finishes_what_it_has(tmp_path):
    world = World(tmp_path, slots=2)
    one = world.harness
    one.work.gate.clear()
    one.queue.put(llm("running"))
    one.until(lambda: "running" in one.work.running, "the first task")
    world.say(temperature_c=90)
    one.until(lambda: one.state.status is WorkerStatus.UNREADY, "the heat is noticed")
    one.queue.put(llm("waits"), script("runs", "x"))
    one.until(lambda: "runs" in one.work.running, "a script needs no card")
    assert "90 °C" in one.state.reason
    one.work.gate.set()
    one.until(lambda: "running" in one.queue.ended, "what ran is finished")
    assert "waits" not in one.queue.claim_log
    world.say(temperature_c=79)
    one.until(lambda: "waits" in one.queue.ended, "work again once it is cool")


def test_on_a_lost_card_requests_are_cut_without_costing_an_attempt(tmp_path):
    world = World(tmp_path)
    one = world.harness
    one.work.gate.clear()
    one.queue.put(llm("hangs"))
    one.until(lambda: "hangs" in one.work.running, "the task")
    world.say(fault="Xid 79")
    one.until(lambda: one.queue.retries, "the cut task is given back")
    task_id, _, counts, attempts = one.queue.retries[0]
    assert (task_id, counts) == ("hangs", False)
    assert attempts[-1].error.type == "card_lost"
    assert world.lost == ["GPU 0 cannot be read: Xid 79"]
    assert one.state.status is WorkerStatus.UNREADY
    (world.dir / "state.json").unlink()
    one.work.gate.set()
    one.until(lambda: "hangs" in one.queue.ended, "the card is back")
