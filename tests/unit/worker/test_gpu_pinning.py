"""The pin proof: the verdict from readings, what a load does with it, and the real NVML path over a stand-in library."""

from __future__ import annotations

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.config.settings import LlmSettings
from swarm.core.faults import TaskFault
from swarm.core.gpu_reading import GpuProcess, GpuReading
from swarm.core.health.gpu_health import judge_pin
from swarm.worker.executors.load_model import ResourceExecutor
from swarm.worker.gpu_checks import PinProof
from swarm.worker.server_probe import ModelServerProbe
from tests.helpers import fake_nvml
from tests.helpers.blocking import event_loop
from tests.helpers.simserver import Cancel
from tests.helpers.worker_fakes import FakeServer, claim_of, load

OURS, THEIRS = 100, 900


def card(index=0, *, used=0, processes=(), **more):
    held = None if processes is None else tuple(GpuProcess(pid, mib) for pid, mib in processes)
    return GpuReading(index=index, uuid=f"GPU-{index}", name="Test", memory_used_mib=used, processes=held, **more)


def verdict(before, after, promised=4000, pids=(OURS,)):
    return judge_pin(before, after, uuids=("GPU-0",), promised_mib=promised, pids=pids)


def test_growth_on_the_own_card_proves_it_with_the_numbers():
    found = verdict([card(), card(1)], [card(processes=[(OURS, 4300)]), card(1)])
    assert found.state == "proven"
    assert found.text == "GPU 0 grew by 4300 MiB (its processes), the server says 4000 MiB"


def test_a_model_on_another_card_is_refuted_and_named():
    found = verdict([card(), card(1)], [card(), card(1, processes=[(OURS, 4300)])])
    assert (found.state, found.text) == (
        "refuted",
        "its server holds 4300 MiB on GPU 1 (GPU-1), which is another worker's card",
    )


def test_a_model_spread_over_two_cards_is_refuted_even_if_the_own_part_is_enough():
    assert verdict([card(), card(1)], [card(processes=[(OURS, 4000)]), card(1, processes=[(OURS, 300)])]).state == "refuted"


def test_a_model_that_is_on_no_card_at_all_is_refuted():
    assert verdict([card(processes=[(THEIRS, 900)])], [card(processes=[(THEIRS, 900)])]).state == "refuted"


def test_what_others_load_at_the_same_moment_is_nobodys_business():
    after = [card(processes=[(OURS, 4300)]), card(1, processes=[(THEIRS, 8000)])]
    assert verdict([card(), card(1)], after).state == "proven"


def test_in_a_container_with_foreign_process_numbers_the_own_cards_growth_counts():
    after = [card(processes=[(THEIRS, 900), (7777, 4200)])]
    found = verdict([card(processes=[(THEIRS, 900)])], after, pids=(OURS,))
    assert (found.state, "all processes" in found.text) == ("proven", True)


def test_what_others_held_before_is_no_growth():
    held = [(THEIRS, 9000)]
    assert verdict([card(processes=held)], [card(processes=[*held, (7777, 30)])]).state == "refuted"


def test_without_processes_the_whole_card_is_weighed():
    assert verdict([card(used=500, processes=None)], [card(used=4700, processes=None)]).state == "proven"
    assert verdict([card(used=500, processes=())], [card(used=510, processes=())]).state == "refuted"


@pytest.mark.parametrize("listed", [None, [(OURS, None)]], ids=["no list", "a list without memory"])
def test_without_processes_a_card_that_did_not_grow_proves_nothing_against_it(listed):
    found = verdict([card(used=9000, processes=listed)], [card(used=5000, processes=listed)])
    assert (found.state, "does not list processes" in found.text) == ("unknown", True)


@pytest.mark.parametrize(
    ("after", "promised"),
    [
        ([], 4000),
        ([card(fault="lost")], 4000),
        ([card(simulated=True, processes=[(OURS, 4000)])], 4000),
        ([card()], 10),
        ([GpuReading(index=0, uuid="GPU-0", name="Test")], 4000),
    ],
)
def test_what_cannot_be_told_is_not_held_against_anybody(after, promised):
    assert verdict([], after, promised).state == "unknown"


@given(st.integers(100, 80_000), st.integers(0, 80_000), st.integers(0, 80_000))
def test_more_memory_on_the_own_card_never_turns_proven_into_refuted(promised, first, more):
    def state(mib):
        return verdict([card()], [card(processes=[(OURS, mib)])], promised).state

    assert not (state(first) == "proven" and state(first + more) != "proven")


class Cards:
    """A reader that shows the model where the test says."""

    def __init__(self, server, index=0):
        self.server = server
        self.index = index
        self.reads = 0

    def read(self):
        self.reads += 1
        held = sum(m.size_vram_mib for m in self.server.held)
        return tuple(card(i, processes=[(OURS, held)] if i == self.index and held else ()) for i in range(2))


def executor(server, cards):
    pin = PinProof(cards, uuids=("GPU-0",), pids=lambda: {OURS}, log=logging.getLogger("worker-1"), settle_s=0.0)
    return ResourceExecutor(server, LlmSettings(), models={}, log=logging.getLogger("worker-1"), pin=pin), pin


def run(executor, model="a"):
    return executor.run(claim_of(load("t", model)), cancel=Cancel(), progress=lambda n: None)


def test_the_first_load_proves_the_pin_and_later_ones_ask_no_more(caplog):
    caplog.set_level(logging.INFO)
    server = FakeServer(lag_looks=0)
    cards = Cards(server)
    loads, pin = executor(server, cards)
    run(loads)
    assert "Pin proven: GPU 0 grew by 1000 MiB" in caplog.text
    reads = cards.reads
    run(loads, "b")
    assert cards.reads == reads
    assert ModelServerProbe(server, event_loop(), lambda *_: False, models={}, on_cpu_spill="refuse", pin=pin).look().usable


def test_a_load_on_the_wrong_card_is_undone_and_the_worker_refuses_llm_work():
    server = FakeServer(lag_looks=0)
    loads, pin = executor(server, Cards(server, index=1))
    with pytest.raises(TaskFault) as caught:
        run(loads)
    assert (caught.value.kind, caught.value.fault) == ("pin_refuted", "deterministic")
    assert ("unload", "a:latest") in server.calls
    reading = ModelServerProbe(server, event_loop(), lambda *_: False, models={}, on_cpu_spill="refuse", pin=pin).look()
    assert not reading.usable
    assert "1000 MiB on GPU 1" in reading.reason


@pytest.mark.skipif(fake_nvml.compiler() is None, reason="no C compiler")
def test_readings_of_the_real_binding_fit(tmp_path):
    """Process 4000+i holds 900 MiB on card i of the stand-in driver."""
    library = fake_nvml.build(tmp_path / "lib")
    driver = fake_nvml.FakeDriver(tmp_path / "state", count=2)
    reader = fake_nvml.ReaderProcess(library, driver.path)
    try:
        cards, _ = reader.read()
    finally:
        reader.close()
    import msgspec

    after = msgspec.convert(cards, tuple[GpuReading, ...])
    own = after[0].uuid
    pid = after[0].processes[0].pid
    assert judge_pin([], after, uuids=(own,), promised_mib=800, pids={pid}).state == "proven"
    other = judge_pin([], after, uuids=(after[1].uuid,), promised_mib=800, pids={pid})
    assert other.state == "refuted"
    assert f"900 MiB on GPU 0 ({own})" in other.text
