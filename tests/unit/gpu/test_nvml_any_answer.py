"""Any function of NVML may be missing, fail or lie at any call: a value is then not known, and what shows cards goes on."""

from __future__ import annotations

import logging

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from swarm.brain.metrics import Seen, families
from swarm.cli.render import to_json, to_plain
from swarm.config.settings import GpuSettings, Settings
from swarm.core.doctor.diagnose import diagnose
from swarm.core.gpu_reading import GpuProcess
from swarm.core.health.gpu_health import CardVerdict, judge_cards, judge_pin
from swarm.core.health.visible_gpus import visible_cards
from swarm.core.placement.worker_plan import plan_workers
from swarm.core.policy.decide import decide
from swarm.engines.ollama.server_spec import server_overlay
from swarm.gpu import nvml_calls as nvmlcalls
from swarm.gpu.nvml import NO_INSTANCE, NvmlReader
from swarm.views import overview
from swarm.views.worker_rows import card_rows, cards_table
from swarm.worker.gpu_checks import PinProof
from tests.helpers import scripted_nvml as nvml
from tests.helpers.cli_world import Counts
from tests.helpers.scripted_nvml import FUNCTIONS, ScriptedNvml, forget, installed
from tests.support.builders import MODEL, a_snapshot, a_worker, llm_waiting
from tests.unit.core.test_diagnose import HEALTHY

CODES = (1, 2, 3, 4, 6, 7, 9, 12, 13, 15, 16, 17, 18, 20, 999, 12345)
WRONGS = ("missing", "nonsense", "stumbles", *CODES)
wrong_functions = st.dictionaries(st.sampled_from(FUNCTIONS), st.sampled_from(WRONGS))
boxes = st.sampled_from([{}, {0: 2}, {1: 7}, {0: 0}, {0: 1, 1: 3}])
replace = msgspec.structs.replace


def read_twice(first, second, split):
    """Two readings of one reader; other functions are wrong the second time."""
    with installed(ScriptedNvml(2, split=split)) as library:
        reader = NvmlReader()
        library.wrong = first
        forget()
        before = reader.read()
        library.wrong = second
        forget()
        after = reader.read()
        assert reader.unavailable is None or all(card.fault for card in after)
        reader.close()
    return before, after


def show_all(cards, plans):
    """Everything that shows or judges cards; returns what people are shown."""
    rows = (replace(a_worker(p.name).row, name=p.name, gpus=p.gpus, gpu_uuids=p.gpu_uuids) for p in plans)
    workers = tuple(replace(a_worker(row.name), row=row) for row in rows)
    snapshot = a_snapshot(workers=workers, lanes=(llm_waiting(9, MODEL),), gpus=cards)
    status = overview.status(snapshot, Counts(), Settings(), brain=True)
    decide(snapshot, Settings())
    seen = Seen(snapshot, ended={}, stale={}, brain=None, brain_alive=True)
    for family in families(seen, Settings()):
        assert all(sample.value == sample.value for sample in family.samples)
    diagnose(replace(HEALTHY, cards=cards, plan=plans, snapshot=snapshot), Settings())
    table = to_plain([cards_table(card_rows(snapshot))])
    return table + to_plain(overview.status_blocks(status)) + to_json({"gpus": card_rows(snapshot)})


def go_on(first, second, split):
    before, after = read_twice(first, second, split)
    for cards in (before, after):
        assert len({card.index for card in cards}) == len(cards)
        assert len({card.uuid for card in cards if card.fault is None}) == sum(card.fault is None for card in cards)
        assert all(card.uuid and "," not in card.uuid and card.name.isprintable() for card in cards)
        for value in ("0", "GPU-0", "MIG-0", "", "1,0"):
            visible_cards({"CUDA_VISIBLE_DEVICES": value}, cards).of(cards)
    if not before:
        return
    plans = plan_workers(Settings(), before, simulate=None)
    assert all(server_overlay(plan, Settings())["CUDA_VISIBLE_DEVICES"] for plan in plans)
    text = show_all(before, plans) + show_all(after, plans)
    assert "None" not in text.replace('"worker": null', "")
    assert "\x1b" not in text
    for plan in plans:
        judge_cards(after, plan.gpu_uuids, CardVerdict(), GpuSettings())
        verdict = judge_pin(before, after, uuids=plan.gpu_uuids, promised_mib=4000, pids=())
        assert verdict.state != "refuted" or all(c.processes is not None for c in after if c.is_one_of(plan.gpu_uuids))


@pytest.mark.parametrize("function", FUNCTIONS)
def test_whatever_one_function_does_all_that_shows_cards_goes_on(function):
    for wrong in WRONGS:
        for split in ({}, {0: 2}):
            go_on({function: wrong}, {}, split)
            go_on({}, {function: wrong}, split)


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(wrong_functions, wrong_functions, boxes)
def test_whatever_any_of_them_do_in_turn_all_that_shows_cards_goes_on(first, second, split):
    go_on(first, second, split)


def read(*, cards=2, split=None, **wrong):
    with installed(ScriptedNvml(cards, split=split)) as library:
        library.wrong = wrong
        forget()
        reader = NvmlReader()
        found = reader.read()
        assert reader.unavailable is None
    return found


@pytest.mark.parametrize(
    "versions",
    [{"_v3": "missing", "": "stumbles"}, {"_v3": "missing", "_v2": "missing"}],
    ids=["driver 450", "driver before 450"],
)
def test_an_older_process_list_serves_where_the_newest_is_missing(versions):
    name = "nvmlDeviceGetComputeRunningProcesses"
    found = read(**{f"{name}{version}": wrong for version, wrong in versions.items()})
    assert found[1].processes == (GpuProcess(pid=nvml.PID + 1, used_mib=900),)


def test_no_process_list_at_all_is_not_an_empty_one():
    name = "nvmlDeviceGetComputeRunningProcesses"
    assert [c.processes for c in read(**{f"{name}{v}": "missing" for v in ("_v3", "_v2", "")})] == [None, None]
    assert [c.processes for c in read(**{f"{name}_v3": nvml.NOT_SUPPORTED})] == [None, None]


@pytest.mark.parametrize(
    "name", ["nvmlDeviceGetCount_v2", "nvmlDeviceGetHandleByIndex_v2", "nvmlInitWithFlags", "nvmlDeviceGetMemoryInfo"]
)
def test_other_calls_have_their_older_or_newer_ones_too(name):
    assert read(**{name: "missing"}) == read()


def test_a_card_without_a_uuid_goes_by_its_index():
    found = read(nvmlDeviceGetUUID=nvml.NOT_SUPPORTED)
    assert [(c.uuid, c.fault) for c in found] == [("0", None), ("1", None)]
    plans = plan_workers(Settings(), found, simulate=None)
    assert [server_overlay(p, Settings())["CUDA_VISIBLE_DEVICES"] for p in plans] == ["0", "1"]


def test_a_uuid_told_only_now_and_then_is_still_the_same_card():
    """The supervisor planned with an index; its worker's reader hears the UUID, and the card is no stranger."""
    before, after = read_twice({"nvmlDeviceGetUUID": nvml.UNKNOWN}, {}, {})
    assert (before[1].uuid, after[1].uuid) == ("1", nvml.UUID.format(1))
    assert judge_cards(after, (before[1].uuid,), CardVerdict(), GpuSettings()) == CardVerdict()
    assert read_twice({}, {"nvmlDeviceGetUUID": nvml.UNKNOWN}, {})[1][1].uuid == nvml.UUID.format(1)


def test_jetson_memory_not_supported_leaves_a_card_that_may_be_used():
    found = read(cards=1, nvmlDeviceGetMemoryInfo=nvml.NOT_SUPPORTED, nvmlDeviceGetMemoryInfo_v2=nvml.NOT_SUPPORTED)
    assert (found[0].memory_total_mib, found[0].memory_used_mib, found[0].fault) == (None, None, None)
    (plan,) = plan_workers(Settings(), found, simulate=None)
    assert (plan.vram_mib, plan.fault) == (None, None)
    view = replace(a_worker("worker-1"), row=replace(a_worker("worker-1").row, gpu_uuids=plan.gpu_uuids))
    snapshot = a_snapshot(workers=(view,), lanes=(llm_waiting(5, MODEL),), gpus=found)
    assert [d.model for d in decide(snapshot, Settings())] == [MODEL]


def test_wsl_has_no_utilisation_no_processes_and_still_its_memory():
    name = "nvmlDeviceGetComputeRunningProcesses"
    (card,) = read(cards=1, nvmlDeviceGetUtilizationRates=nvml.UNKNOWN, **{f"{name}_v3": nvml.NOT_SUPPORTED})
    assert (card.utilisation_pct, card.processes, card.memory_total_mib, card.fault) == (None, None, 24576, None)


def test_the_library_is_found_where_wsl_keeps_it(monkeypatch):
    asked = []

    def loads(path):
        asked.append(path)
        if path != "/usr/lib/wsl/lib/libnvidia-ml.so.1":
            raise OSError(path)
        return ScriptedNvml(1)

    with installed(ScriptedNvml(1)):
        monkeypatch.setattr("pynvml.nvmlLib", None)
        monkeypatch.setattr(nvmlcalls.ctypes, "CDLL", loads)
        assert len(NvmlReader().read()) == 1
    assert asked[0] == "libnvidia-ml.so.1"


@pytest.mark.parametrize("code", [nvml.LOST, nvml.RESET])
def test_a_card_that_falls_off_the_bus_between_two_calls_is_lost_as_a_whole(code):
    before, after = read_twice({}, {"nvmlDeviceGetTemperature": code}, {})
    assert all(c.fault is None for c in before)
    assert [(c.uuid, c.memory_total_mib, c.fault is not None) for c in after] == [
        (nvml.UUID.format(i), 24576, True) for i in range(2)
    ]


def test_each_mig_instance_is_a_card_with_memory_and_processes_of_its_own():
    whole, first, second = sorted(read(split={0: 2}), key=lambda c: c.index)
    assert (whole.index, first.index, second.index) == (1, 100, 101)
    assert [c.uuid for c in (first, second)] == [nvml.MIG_UUID.format(0, i) for i in range(2)]
    assert (first.memory_total_mib, first.utilisation_pct, first.temperature_c, first.power_w) == (12288, None, 40, None)
    assert (first.mig.gpu_uuid, first.mig.gi, first.mig.ci) == (nvml.UUID.format(0), 7, 0)


def test_a_mig_card_without_an_instance_is_of_no_use_and_says_why():
    assert [c.fault for c in read(split={0: 0})] == [NO_INSTANCE, None]


def test_mig_instances_one_may_not_look_into_leave_the_card_whole():
    found = read(split={0: 2}, nvmlDeviceGetMigDeviceHandleByIndex=nvml.NO_PERMISSION)
    assert [(c.index, c.fault) for c in found] == [(0, None), (1, None)]


def test_a_split_card_that_is_lost_is_lost_in_all_its_instances():
    before, after = read_twice({}, {"nvmlDeviceGetHandleByIndex_v2": nvml.LOST}, {0: 2})
    assert [(c.index, c.uuid) for c in after] == [(c.index, c.uuid) for c in before]
    assert all(c.fault for c in after)


def test_what_is_out_of_all_reason_is_not_known():
    names = ("MemoryInfo", "UtilizationRates", "Temperature", "PowerUsage", "TotalEnergyConsumption")
    for card in read(**{f"nvmlDeviceGet{name}": "nonsense" for name in names}):
        assert (card.memory_total_mib, card.memory_used_mib, card.utilisation_pct) == (None, None, None)
        assert (card.temperature_c, card.power_w, card.energy_j, card.fault) == (None, None, None, None)


def test_a_driver_that_counts_absurdly_is_unavailable():
    with installed(ScriptedNvml()) as library:
        library.wrong = {"nvmlDeviceGetCount_v2": "nonsense"}
        reader = NvmlReader()
        assert reader.read() == ()
        assert reader.unavailable == "the driver counts 4294967295 cards"


def test_two_cards_of_one_uuid_are_told_apart_by_their_indices(monkeypatch):
    monkeypatch.setattr(nvml, "UUID", "GPU-aaaa")
    assert [c.uuid for c in read()] == ["0", "1"]


def test_a_pin_that_cannot_be_proven_is_said_once_and_held_against_nobody(caplog):
    caplog.set_level(logging.INFO)
    name = "nvmlDeviceGetComputeRunningProcesses"
    cards = read(**{f"{name}_v3": nvml.NOT_SUPPORTED})

    class Cards:
        def read(self):
            return cards

    pin = PinProof(Cards(), uuids=(cards[0].uuid,), pids=lambda: {1}, log=logging.getLogger("worker-1"), settle_s=0.0)
    for model, size_mib in (("a", 4000), ("b", 5000)):
        pin.check(model, pin.before(), size_mib)
    assert caplog.text.count("Pin not proven") == 1
    assert not pin.refusal
