"""When what ended is started again, as tables and properties."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.core.policy.restart_backoff import Life, RestartPolicy, RestartRecord, after_end, after_ready, delay_s

POLICY = RestartPolicy(never_ready_limit=3)
NEVER_READY = Life()
KILLED = Life(ready_s=4.0, worked=True)
KILLED_BEFORE_ITS_FIRST_TURN = Life(ready_s=0.3)
CRASHED_AT_ONCE = Life(ready_s=0.5, worked=True, broke=True)
CRASHED_LATER = Life(ready_s=5.0, worked=True, broke=True)
SILENT_FOR_LONG = Life(ready_s=60.0)


@pytest.mark.parametrize(
    ("failures", "wait_s"), [(0, 0), (1, 10), (2, 20), (3, 40), (4, 80), (5, 160), (6, 300), (7, 300), (10**9, 300)]
)
def test_waits_double_up_to_the_cap(failures, wait_s):
    assert delay_s(failures, POLICY) == wait_s


def waits(*lives: Life, gap_s: float = 5.0, policy: RestartPolicy = POLICY) -> list[float]:
    """How long each start is put off, with ``gap_s`` between a start and the next end."""
    record, now_s, found = RestartRecord(), 1000.0, []
    for life in lives:
        record = after_end(record, life, now_s=now_s, policy=policy)
        found.append(record.due_s - now_s)
        now_s = record.due_s + gap_s
    return found


@pytest.mark.parametrize("life", [KILLED, CRASHED_LATER, SILENT_FOR_LONG])
def test_what_was_at_work_is_back_at_once_each_time(life):
    assert waits(*[life] * 20) == [0.0] * 20


@pytest.mark.parametrize("life", [NEVER_READY, KILLED_BEFORE_ITS_FIRST_TURN, CRASHED_AT_ONCE])
def test_what_fails_at_its_start_is_tried_ever_more_slowly(life):
    assert waits(*[life] * 5, policy=RestartPolicy()) == [0, 10, 20, 40, 80]


def test_a_life_at_work_ends_the_row_of_failed_starts():
    failed = CRASHED_AT_ONCE
    assert waits(failed, failed, failed, KILLED, failed, failed) == [0, 10, 20, 0, 0, 10]


def test_a_storm_of_ends_is_slowed_down_to_one_start_in_30_s():
    storm = waits(*[KILLED] * 40, gap_s=0.0)
    assert storm == [0.0] * 20 + [30.0] * 20


def test_ten_quiet_minutes_forgive_the_past_but_not_the_count():
    record = RestartRecord(restarts=7, booked_until_s=1600.0)
    assert after_end(record, KILLED, now_s=1000.0, policy=POLICY).due_s == 1030.0
    later = after_end(record, KILLED, now_s=1600.0, policy=POLICY)
    assert later == RestartRecord(restarts=8, booked_until_s=1630.0, due_s=1600.0)


def test_three_starts_that_never_got_ready_quarantine():
    record = RestartRecord()
    for _ in range(2):
        record = after_end(record, NEVER_READY, now_s=0.0, policy=POLICY)
        assert not record.quarantined
    record = after_end(record, NEVER_READY, now_s=0.0, policy=POLICY)
    assert record.quarantined
    assert record.due_s == POLICY.quarantine_s


def test_getting_ready_once_clears_the_suspicion():
    record = RestartRecord(never_ready=2)
    assert not after_end(after_ready(record), NEVER_READY, now_s=5.0, policy=POLICY).quarantined
    quarantined = after_end(record, NEVER_READY, now_s=0.0, policy=POLICY)
    assert quarantined.quarantined
    assert not after_ready(quarantined).quarantined


def test_a_failed_retry_after_quarantine_quarantines_again():
    record = RestartRecord(never_ready=3, quarantined=True)
    assert after_end(record, NEVER_READY, now_s=0.0, policy=POLICY).quarantined


LIVES = st.builds(Life, ready_s=st.none() | st.floats(0, 1e4), worked=st.booleans(), broke=st.booleans())


@given(ends=st.lists(st.tuples(st.floats(0, 1e4), LIVES), max_size=30))
def test_waits_are_bounded_and_starts_are_never_in_the_past(ends):
    record, now_s = RestartRecord(), 0.0
    for lived_s, life in ends:
        now_s = max(now_s, record.due_s) + lived_s
        record = after_end(record, life, now_s=now_s, policy=POLICY)
        assert now_s <= record.due_s <= now_s + max(POLICY.cap_s, POLICY.quarantine_s)
    assert record.restarts == len(ends)


@given(lives=st.lists(LIVES, min_size=1, max_size=200))
def test_no_loop_of_starts_is_without_limit(lives):
    """Lives of no length at all: in ten minutes the burst, its slow rest, and one failed start after each of these."""
    record, now_s, starts = RestartRecord(), 0.0, []
    for life in lives:
        record = after_end(record, life, now_s=now_s, policy=POLICY)
        now_s = record.due_s
        starts.append(now_s)
    most = 2 * (2 * POLICY.burst) + 10
    assert all(sum(1 for s in starts if begin <= s < begin + POLICY.healthy_s) <= most for begin in starts)
