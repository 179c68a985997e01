"""Backoff and quarantine, as tables and properties."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.core.restart import RestartPolicy, RestartRecord, after_end, after_ready, delay_s

POLICY = RestartPolicy(never_ready_limit=3)


@pytest.mark.parametrize(
    ("failures", "wait_s"), [(0, 0), (1, 10), (2, 20), (3, 40), (4, 80), (5, 160), (6, 300), (7, 300), (10**9, 300)]
)
def test_waits_double_up_to_the_cap(failures, wait_s):
    assert delay_s(failures, POLICY) == wait_s


def crash(record, now_s, ready_since_s, policy=POLICY):
    return after_end(record, now_s=now_s, ready_since_s=ready_since_s, policy=policy)


def test_the_first_restart_is_at_once_then_slower():
    record, waits = RestartRecord(), []
    for _ in range(5):
        record = crash(record, 1000.0, 990.0)
        waits.append(record.due_s - 1000.0)
    assert waits == [0, 10, 20, 40, 80]
    assert record.restarts == 5
    assert not record.quarantined


def test_ten_healthy_minutes_forgive_the_past_but_not_the_count():
    record = RestartRecord(restarts=7, failures=6)
    assert crash(record, 1000.0, 400.0) == RestartRecord(restarts=8, failures=1, due_s=1000.0)
    assert crash(record, 1000.0, 401.0).due_s == 1300.0


def test_three_starts_that_never_got_ready_quarantine():
    record = RestartRecord()
    for _ in range(2):
        record = crash(record, 0.0, None)
        assert not record.quarantined
    record = crash(record, 0.0, None)
    assert record.quarantined
    assert record.due_s == POLICY.quarantine_s


def test_getting_ready_once_clears_the_suspicion():
    record = crash(crash(RestartRecord(), 0.0, None), 0.0, None)
    assert not crash(after_ready(record), 5.0, None).quarantined
    quarantined = crash(record, 0.0, None)
    assert not after_ready(quarantined).quarantined


def test_a_failed_retry_after_quarantine_quarantines_again():
    record = RestartRecord(never_ready=3, quarantined=True)
    assert crash(record, 0.0, None).quarantined


def test_an_orderly_end_is_no_failure_unless_it_comes_at_once():
    record = RestartRecord(restarts=2, failures=3, never_ready=1)
    after_a_while = after_end(record, now_s=50.0, ready_since_s=40.0, policy=POLICY, orderly=True)
    assert after_a_while == RestartRecord(restarts=3, due_s=50.0)
    assert after_end(record, now_s=50.0, ready_since_s=41.0, policy=POLICY, orderly=True).due_s == 90.0
    assert after_end(record, now_s=50.0, ready_since_s=None, policy=POLICY, orderly=True).failures == 4


@given(ends=st.lists(st.tuples(st.floats(0, 1e4), st.booleans()), max_size=30))
def test_waits_are_bounded_and_starts_are_never_in_the_past(ends):
    record, now_s = RestartRecord(), 0.0
    for lived_s, got_ready in ends:
        start_s = max(now_s, record.due_s)
        now_s = start_s + lived_s
        record = crash(record, now_s, start_s if got_ready else None)
        assert now_s <= record.due_s <= now_s + max(POLICY.cap_s, POLICY.quarantine_s)
    assert record.restarts == len(ends)
