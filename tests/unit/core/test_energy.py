"""Joules of a worker's cards, from counters or from power over time."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from swarm.core.energy import LONGEST_GAP_S, metered
from swarm.core.gpu_reading import GpuReading


def card(index=0, **values):
    return GpuReading(index=index, uuid=f"GPU-{index}", name="x", **values)


def used(*steps, uuids=("GPU-0",)):
    """The meter after readings at their times."""
    meter = None
    for now_s, *cards in steps:
        meter = metered(meter, cards, uuids, now_s)
    return meter


def test_a_counter_is_differenced():
    found = used((0, card(energy_j=1000.0, power_w=90)), (10, card(energy_j=2500.0, power_w=200)))
    assert (found.total_j, found.powers_w) == (1500.0, {"GPU-0": 200})
    assert found.at(11) == 1700.0, "until the next reading the power is what it was"


def test_a_counter_without_power_gives_the_mean_of_the_last_gap():
    assert used((0, card(energy_j=0.0)), (10, card(energy_j=500.0))).at(12) == 600.0


def test_power_is_summed_over_time():
    assert used((0, card(power_w=100)), (5, card(power_w=200)), (10, card(power_w=50))).total_j == 5 * 150 + 5 * 125


def test_a_driver_loaded_anew_counts_from_nothing_and_that_is_no_negative_energy():
    found = used((0, card(energy_j=9e6)), (10, card(energy_j=40.0)), (20, card(energy_j=140.0)))
    assert found.total_j == 100.0


def test_what_no_driver_tells_is_unknown():
    assert used((0, card())) is None
    assert used((0, card(power_w=100)), (5, card(power_w=100, fault="lost"))) is None
    two = used((0, card(power_w=100), card(1)), uuids=("GPU-0", "GPU-1"))
    assert two is None, "half a sum would be taken for the whole"


def test_cards_of_others_do_not_count():
    assert used((0, card(power_w=100), card(1, power_w=900)), (1, card(power_w=100), card(1, power_w=900))).total_j == 100


def test_a_long_gap_is_left_out_where_only_power_is_known():
    later = LONGEST_GAP_S + 1
    assert used((0, card(power_w=100)), (later, card(power_w=100))).total_j == 0
    assert used((0, card(energy_j=0.0)), (later, card(energy_j=70.0))).total_j == 70
    assert used((0, card(power_w=100))).at(1e9) == 100 * LONGEST_GAP_S


@given(st.lists(st.tuples(st.floats(0.01, 100), st.floats(0, 700), st.none() | st.floats(0, 1e9)), max_size=20))
def test_the_sum_never_falls(steps):
    now_s, meter, before_j = 0.0, None, 0.0
    for gap_s, watts, counter_j in steps:
        now_s += gap_s
        meter = metered(meter, [card(power_w=watts, energy_j=counter_j)], ("GPU-0",), now_s)
        assert meter.total_j >= before_j
        before_j = meter.total_j
