"""Sums of what a worker did of a batch: nothing is lost however they are put together, and they stay small."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.queue.batches.worker_sums import MAX_BUCKETS, WINDOW_S, Latest, Timeline, WorkerSums

EPOCH = 1.77e9
spans = st.lists(
    st.tuples(st.floats(0, 1e5), st.floats(0, 5000)).map(lambda t: (EPOCH + t[0], EPOCH + t[0] + t[1])),
    min_size=1,
    max_size=40,
)


def timeline(found):
    line = Timeline()
    for span in found:
        line.note(span)
    return line


@given(spans, spans)
def test_seconds_are_kept_and_two_halves_make_the_whole(first, second):
    whole, both = timeline([*first, *second]), timeline(first)
    both.add(timeline(second))
    seconds = sum(end - begin for begin, end in (*first, *second))
    assert sum(whole.task_s.values()) == pytest.approx(seconds, abs=0.01)
    assert sum(both.task_s.values()) == pytest.approx(seconds, abs=0.01)
    assert len(both.task_s) <= MAX_BUCKETS >= len(whole.task_s)


@given(spans)
def test_tasks_at_once_are_never_more_than_there_were_nor_less_than_one(found):
    sums = WorkerSums()
    for span in found:
        sums.note(span, None)
    sums.settle()
    width_s, at_once = sums.timeline.at_once(sums.spans, 8)
    assert len(at_once) <= 8
    assert all(slots <= len(found) + 0.01 for slots in at_once)
    seconds = sum(end - begin for begin, end in found)
    assert sum(at_once) * width_s >= seconds * 0.99 - 1, "what was done is shown"


def test_slots_that_grow_are_seen_to_grow():
    """One task at a time for a minute, then four."""
    sums = WorkerSums()
    for second in range(0, 60, 5):
        sums.note((EPOCH + second, EPOCH + second + 5), None)
    for second in range(60, 120, 5):
        for _ in range(4):
            sums.note((EPOCH + second, EPOCH + second + 5), None)
    sums.settle()
    _, at_once = sums.timeline.at_once(sums.spans, 8)
    assert at_once[0] == pytest.approx(1.0)
    assert at_once[-1] == pytest.approx(4.0)
    assert sums.worked_s == pytest.approx(120)


def test_energy_is_told_of_what_is_known():
    sums = WorkerSums()
    sums.note((EPOCH, EPOCH + 1), 50.0)
    sums.ended(10, 100, metered=True)
    sums.note((EPOCH, EPOCH + 1), None)
    sums.ended(10, 700, metered=False)
    other = WorkerSums()
    other.add(sums)
    other.add(sums)
    assert (other.metered, other.attempts, other.energy_j, other.metered_tokens_out, other.tokens_out) == (
        2,
        4,
        100.0,
        200,
        1600,
    )


def test_the_rate_of_late_is_that_of_the_last_minute():
    late = Latest()
    for second in range(600):
        late.note(EPOCH + second, 1, 10 if second < 500 else 30)
    assert late.per_s(EPOCH + 600) == pytest.approx((1, 30), rel=0.02)
    assert late.per_s(EPOCH + 600 + 2 * WINDOW_S) == (0, 0)
    halves = Latest()
    for part in (Latest(dict(list(late.buckets.items())[::2])), Latest(dict(list(late.buckets.items())[1::2]))):
        halves.add(part)
    assert halves.buckets == late.buckets
