"""Which cards CUDA_VISIBLE_DEVICES leaves, told from its value and the cards there are: CUDA's own rules, as a table."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.config.settings import Settings, WorkerSpec
from swarm.core.gpu_reading import GpuReading, MigInstance
from swarm.core.health.visible_gpus import Visibility, needs_cuda_order, visible_cards
from swarm.core.placement.worker_plan import plan_workers
from swarm.errors import ConfigError
from swarm.gpu.visible import VisibleReader

UUIDS = ("GPU-11aa0000", "GPU-11bb0000", "GPU-22cc0000", "GPU-33dd0000")
FOUR = tuple(GpuReading(index=i, uuid=uuid, name="A100", memory_total_mib=40960) for i, uuid in enumerate(UUIDS))


def part(card, number, uuid, gi):
    mig = MigInstance(gpu_index=card.index, gpu_uuid=card.uuid, gi=gi, ci=0)
    return GpuReading(index=100 * (card.index + 1) + number, uuid=uuid, name="A100 MIG 1g", memory_total_mib=4864, mig=mig)


SPLIT = (FOUR[0], part(FOUR[1], 0, "MIG-aa110000", 7), part(FOUR[1], 1, "MIG-aa220000", 8), FOUR[2])
UNEQUAL = tuple(
    GpuReading(index=i, uuid=uuid, name=name, memory_total_mib=mib)
    for i, (uuid, name, mib) in enumerate(zip(UUIDS, ("T4", "A100", "T4", "T4"), (15360, 40960, 15360, 15360), strict=True))
)


def left(value, cards=FOUR, **more):
    env = {} if value is None else {"CUDA_VISIBLE_DEVICES": value}
    env |= {"CUDA_DEVICE_ORDER": more.pop("order")} if "order" in more else {}
    seen = visible_cards(env, cards, **more)
    return [card.index for card in seen.of(cards)]


@pytest.mark.parametrize(
    ("value", "indices"),
    [
        (None, [0, 1, 2, 3]),
        ("0,1,2,3", [0, 1, 2, 3]),
        ("1", [1]),
        ("3,1", [3, 1]),
        # ends before the first invalid entry
        ("0,2,-1,1", [0, 2]),
        ("0,4,1", [0]),
        ("7", []),
        ("0,,1", [0]),
        (",0", []),
        ("0,", [0]),
        ("0,two,1", [0]),
        ("99999999999999999999,0", []),
        # none
        ("", []),
        (" ", []),
        ("-1", []),
        ("NoDevFiles", []),
        ("none", []),
        ("all", []),
        # one card twice leaves none, but only where the list is read as far
        ("0,0", []),
        ("0,1,2,1", []),
        ("1,-1,1", [1]),
        # numbers as C reads them
        (" 1, 2", [1, 2]),
        ("+2,-0", [2, 0]),
        ("02", [2]),
        ("1gpu2,2ampere", [1, 2]),
        # UUIDs, whole or cut short
        ("GPU-22cc0000", [2]),
        ("GPU-22,GPU-11b", [2, 1]),
        ("GPU-11", []),
        ("GPU-22,GPU-11,GPU-33", [2]),
        ("GPU-22cc0000,GPU-22", []),
        ("GPU-99", []),
        ("GPU-22cc00000000", []),
        ("gpu-22cc0000", []),
        # kinds are not mixed
        ("GPU-22,0", [2]),
        ("0,GPU-22", [0]),
        ("GPU-22, GPU-33", [2]),
        ("MIG-22cc0000", []),
    ],
)
def test_the_list_is_read_as_cuda_reads_it(value, indices):
    assert left(value) == indices


@pytest.mark.parametrize(
    ("value", "indices"),
    [
        ("MIG-aa220000", [201]),
        ("MIG-aa22,MIG-aa11", [201, 200]),
        ("MIG-aa", []),
        ("MIG-aa11,MIG-aa110000", []),
        ("MIG-GPU-11bb0000/8/0", [201]),
        ("MIG-GPU-11bb0000/8/1", []),
        ("MIG-GPU-11bb0000/7/0,MIG-aa220000", [200, 201]),
        ("MIG-aa11,0", [200]),
        # a card that is split stands for its first instance, for CUDA shows a process no more than one
        ("1", [200]),
        ("0,1,2", [0, 200, 2]),
        ("GPU-11bb", [200]),
    ],
)
def test_mig_instances_go_by_their_own_uuids_or_the_old_form(value, indices):
    assert left(value, SPLIT) == indices


def test_old_drivers_own_names_of_instances_are_taken_as_they_are():
    old = part(FOUR[1], 0, "MIG-GPU-11bb0000/7/0", None)
    assert left("MIG-GPU-11bb0000/7/0", (FOUR[0], old)) == [200]


def test_a_whole_uuid_wins_over_one_it_begins():
    cards = tuple(GpuReading(index=i, uuid=uuid, name="T") for i, uuid in enumerate(("GPU-1", "GPU-10")))
    assert left("GPU-1", cards) == [0]
    assert left("GPU-1,GPU-10", cards) == [0, 1]


def test_numbers_count_unlike_cards_as_cuda_does():
    cuda = (UUIDS[1], UUIDS[0], UUIDS[2], UUIDS[3])
    assert left("0", UNEQUAL, cuda_order=cuda) == [1]
    assert left("1,2", UNEQUAL, cuda_order=cuda) == [0, 2]
    assert left("0", UNEQUAL, order="PCI_BUS_ID", cuda_order=cuda) == [0]
    assert left("0", UNEQUAL, order="FASTEST_FIRST", cuda_order=cuda) == [1]
    assert left("GPU-11aa", UNEQUAL, cuda_order=cuda) == [0]
    assert left("3", UNEQUAL, cuda_order=cuda[:3]) == [], "a card that CUDA does not count has no number"


def test_where_cuda_cannot_be_asked_the_bus_counts_and_that_is_said():
    seen = visible_cards({"CUDA_VISIBLE_DEVICES": "0"}, UNEQUAL)
    assert [c.index for c in seen.of(UNEQUAL)] == [0]
    assert "bus order is used" in seen.note
    assert "CUDA_DEVICE_ORDER=PCI_BUS_ID" in seen.note


@pytest.mark.parametrize(
    ("cards", "value", "order", "needed"),
    [
        (FOUR, "1", None, False),
        (UNEQUAL, "1", None, True),
        (UNEQUAL, "1", "PCI_BUS_ID", False),
        (UNEQUAL, "GPU-11", None, False),
        (UNEQUAL, "", None, False),
        (UNEQUAL, None, None, False),
        (SPLIT[1:3], "0", None, False),
    ],
)
def test_cuda_is_asked_only_where_a_number_may_mean_another_card(cards, value, order, needed):
    env = {"CUDA_VISIBLE_DEVICES": value, "CUDA_DEVICE_ORDER": order}
    assert needs_cuda_order({k: v for k, v in env.items() if v is not None}, cards) is needed


@pytest.mark.parametrize(
    ("value", "note"),
    [
        (None, ""),
        ("0,1,2,3", ""),
        ("1", "1 of 4 cards: CUDA_VISIBLE_DEVICES=1"),
        ("", "0 of 4 cards: CUDA_VISIBLE_DEVICES= (set to nothing)"),
        ("0,9", "1 of 4 cards: CUDA_VISIBLE_DEVICES=0,9 (read up to '9', which names no card)"),
        ("GPU-11", "0 of 4 cards: CUDA_VISIBLE_DEVICES=GPU-11 (read up to 'GPU-11', which more than one card begins with)"),
        ("2,2", "0 of 4 cards: CUDA_VISIBLE_DEVICES=2,2 ('2' names a card a second time, which leaves none)"),
    ],
)
def test_the_note_says_how_many_and_why(value, note):
    assert visible_cards({} if value is None else {"CUDA_VISIBLE_DEVICES": value}, FOUR).note == note


def test_ignored_it_hides_nothing_and_is_named():
    seen = visible_cards({"CUDA_VISIBLE_DEVICES": "1"}, FOUR, ignore=True)
    assert seen.of(FOUR) == FOUR
    assert seen.note == "CUDA_VISIBLE_DEVICES is ignored (gpu.ignore_visible): all 4 cards, CUDA_VISIBLE_DEVICES=1"
    assert visible_cards({}, FOUR, ignore=True) == Visibility()


@given(st.text(max_size=200))
def test_any_value_leaves_cards_that_are_there_each_once_and_a_note_fit_to_print(value):
    for cards in (FOUR, SPLIT, UNEQUAL, ()):
        seen = visible_cards({"CUDA_VISIBLE_DEVICES": value}, cards)
        chosen = [c.index for c in seen.of(cards)]
        assert len(set(chosen)) == len(chosen)
        assert sorted((*chosen, *seen.hidden)) == sorted(c.index for c in cards)
        assert seen.note.isprintable()
        assert len(seen.note) < 600


class Machine:
    unavailable = None

    def __init__(self, cards):
        self.cards = cards

    def read(self):
        return self.cards


def test_a_card_that_falls_off_the_bus_does_not_give_its_number_to_the_next():
    machine = Machine(FOUR)
    reader = VisibleReader(machine, lambda cards: visible_cards({"CUDA_VISIBLE_DEVICES": "1"}, cards))
    assert [c.uuid for c in reader.read()] == [UUIDS[1]]
    machine.cards = tuple(GpuReading(index=i, uuid=c.uuid, name=c.name) for i, c in enumerate(FOUR[1:]))
    assert [c.uuid for c in reader.read()] == [UUIDS[1]]


def test_no_card_yet_is_no_decision_yet():
    machine = Machine(())
    reader = VisibleReader(machine, lambda cards: visible_cards({"CUDA_VISIBLE_DEVICES": "3"}, cards))
    assert reader.read() == ()
    machine.cards = FOUR
    assert [c.index for c in reader.read()] == [3]


def plan(value, *workers, simulate=None):
    seen = visible_cards({"CUDA_VISIBLE_DEVICES": value}, FOUR)
    return plan_workers(Settings(workers=workers), seen.of(FOUR), simulate=simulate, visibility=seen)


def test_one_worker_for_each_visible_card_in_cudas_order():
    assert [(p.name, p.gpus, p.gpu_uuids) for p in plan("3,1")] == [
        ("worker-1", (3,), (UUIDS[3],)),
        ("worker-2", (1,), (UUIDS[1],)),
    ]


def test_a_worker_on_a_hidden_card_is_refused_by_name():
    with pytest.raises(ConfigError, match=r"\[\[workers\]\] big: GPU 0 is hidden .* 1 of 4 cards: CUDA_VISIBLE_DEVICES=1"):
        plan("1", WorkerSpec(name="one", gpus=(1,)), WorkerSpec(name="big", gpus=(0,)))


def test_a_card_that_is_not_there_at_all_is_not_called_hidden():
    with pytest.raises(ConfigError, match="there is no GPU 9"):
        plan("1", WorkerSpec(name="big", gpus=(9,)))


@pytest.mark.parametrize("value", ["", "-1", "NoDevFiles"])
def test_no_card_left_is_refused_and_never_silently_the_cpu(value):
    with pytest.raises(ConfigError, match="no card is left to work on: 0 of 4 cards: CUDA_VISIBLE_DEVICES=") as refused:
        plan(value)
    assert "ignore_visible" in refused.value.hint


def test_workers_that_need_no_card_need_none():
    assert [p.gpus for p in plan("", WorkerSpec(name="cpu"), WorkerSpec(name="far", ollama_url="http://h:1"))] == [(), ()]


def test_simulated_cards_are_never_hidden():
    assert len(plan("", simulate=3)) == 3
