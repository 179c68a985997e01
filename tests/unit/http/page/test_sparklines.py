"""Tokens per second over time: from heartbeats, in bounded memory, drawn with gaps."""

import re

from hypothesis import given
from hypothesis import strategies as st

from swarm.core.worker import RateSample
from swarm.http.page import sparklines
from swarm.http.page.sparklines import HEIGHT, KEPT, MOST_WORKERS, POINTS, WIDTH, RateHistory, draw


def samples(*sums):
    return [RateSample(at_s, tokens_out=tokens) for at_s, tokens in sums]


def rates(history, name="w"):
    return list(history._series.get(name, ()))


def test_a_rate_is_the_difference_of_two_sums_of_one_life():
    history = RateHistory()
    for sample in samples((10, 100), (15, 600), (15, 600), (20, 1100), (1, 50), (6, 250)):
        history.note({"w": sample})
    assert rates(history) == [None, 100.0, None, 100.0, None, 40.0], "no news is no rate; a new life begins anew"


def test_what_was_stopped_leaves_no_negative_rate():
    history = RateHistory()
    for sample in samples((10, 100), (15, 40)):
        history.note({"w": sample})
    assert rates(history) == [None, 0.0]


def test_series_end_with_the_same_sample_and_are_added():
    history = RateHistory()
    history.note({"a": RateSample(0)})
    for i in range(1, 4):
        history.note({"a": RateSample(i * 5, tokens_out=i * 50), "b": RateSample(i * 5, tokens_out=i * 500)})
    assert history.together().highest == 110.0
    assert history.of("a").highest == 10.0


def test_memory_is_bounded_and_the_gone_are_forgotten(monkeypatch):
    monkeypatch.setattr(sparklines, "KEPT", 4)
    history = RateHistory()
    history.note({f"w{i}": RateSample(0) for i in range(MOST_WORKERS + 50)})
    assert len(history._series) == MOST_WORKERS
    for i in range(1, 6):
        history.note({"w0": RateSample(i, tokens_out=i)})
    assert set(history._series) == {"w0"}
    assert set(history._last) <= {"w0"}
    assert len(rates(history, "w0")) == 4


@given(st.lists(st.none() | st.floats(0, 1e9), max_size=KEPT))
def test_a_line_stays_in_its_frame_whatever_was_sampled(found):
    line = draw(found)
    if line is None:
        return
    places = [tuple(map(float, place)) for place in re.findall(r"(-?[\d.]+) (-?[\d.]+)", line.line)]
    assert all(-0.1 <= x <= WIDTH + 0.1 and -0.1 <= y <= HEIGHT + 0.1 for x, y in places)
    assert len(places) <= POINTS
    assert "nan" not in line.line + line.under


def test_gaps_stay_gaps_and_the_newest_is_at_the_right_edge():
    line = draw([1.0, 2.0, None, 2.0, 4.0])
    assert line.line.count("M") == 2
    assert line.line.endswith(f"L{WIDTH:.1f} {HEIGHT * 0.05:.1f}")
    assert line.span_s == 25.0


def test_nothing_generated_is_no_line():
    assert draw([]) is None
    assert draw([0.0, 0.0]) is None
    assert draw([1.0]) is None
