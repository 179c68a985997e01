"""The verdict on failed attempts, as tables and as properties."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.core.retry import Again, Cancelled, GiveUp, after_crash, after_fault, backoff_s, crash_delay_s, this_life
from swarm.core.task import Attempt, Task, TaskClass
from swarm.settings import RetrySettings

SETTINGS = RetrySettings(max_attempts=3, crash_limit=3, infra_limit=5, backoff_base_s=1.0, backoff_cap_s=10.0)


def past(number: int, fault: Any, outcome: Any = "retried") -> Attempt:
    return Attempt(attempt=number, worker="w", outcome="crashed" if fault == "crash" else outcome, fault=fault)


def judge(
    fault: Any, attempt: int, attempts: tuple[Attempt, ...] = (), max_attempts: int | None = None, jitter: float = 0.5
) -> Any:
    task = Task(task_id="t", task_class=TaskClass.LLM, max_attempts=max_attempts)
    return after_fault(
        fault=fault, kind="k", task=task, attempt=attempt, attempts=attempts, settings=SETTINGS, jitter=jitter
    )


T1, T2 = past(1, "transient"), past(2, "transient")
I1 = past(1, "infra")
C1, C2 = past(1, "crash"), past(2, "crash")


@pytest.mark.parametrize(
    ("fault", "attempt", "attempts", "expected"),
    [
        ("cancelled", 1, (), Cancelled),
        ("deterministic", 1, (), GiveUp),
        ("transient", 1, (), (0.5, True)),
        ("transient", 2, (T1,), (1.0, True)),
        ("transient", 3, (T1, T2), GiveUp),
        ("infra", 1, (), (0.5, False)),
        ("infra", 1, (I1, I1, I1), (4.0, False)),
        ("infra", 1, (I1, I1, I1, I1), GiveUp),
        ("transient", 1, (I1, I1, I1), (0.5, True)),  # infra faults use up no attempt
        ("transient", 3, (C1, C2), (0.5, True)),  # crashes have a limit of their own
        ("crash", 1, (), (0.0, True)),
    ],
)
def test_verdicts(fault, attempt, attempts, expected):
    verdict = judge(fault, attempt, attempts)
    if isinstance(expected, tuple):
        assert verdict == Again(*expected, reason=verdict.reason)
    else:
        assert isinstance(verdict, expected)


def test_the_tasks_own_limit_wins():
    assert isinstance(judge("transient", 1, max_attempts=1), GiveUp)
    assert isinstance(judge("transient", 3, (T1, T2), max_attempts=4), Again)


def test_delays_stop_growing_at_the_cap():
    assert [backoff_s(n, settings=SETTINGS, jitter=1.0) for n in (0, 1, 2, 3, 4, 10_000)] == [1, 2, 4, 8, 10, 10]


@pytest.mark.parametrize(
    ("attempt", "attempts", "delay_s"),
    [
        (1, (), 0.0),  # the first time it goes on at once
        (2, (C1,), 0.5),
        (3, (C1, C2), None),
        (2, (T1,), 0.0),
        (3, (C1,), None),  # attempt 2 left no record: only a death leaves none
        (1, (I1, I1), 0.0),
    ],
)
def test_crashes(attempt, attempts, delay_s):
    verdict = after_crash(attempt=attempt, attempts=attempts, settings=SETTINGS, jitter=0.5)
    assert (verdict.delay_s if isinstance(verdict, Again) else None) == delay_s
    recorded = (*attempts, past(attempt, "crash"))
    assert crash_delay_s(recorded, settings=SETTINGS, jitter=0.5) == delay_s


def test_a_retry_from_the_dead_letters_starts_afresh():
    dead = (past(1, "infra"), past(1, "transient"), past(2, "transient"), past(3, "transient", "failed"))
    assert this_life(dead, 1) == ()
    assert this_life((C1, C2, past(3, "crash")), 1) == ()
    assert this_life((*dead, T1), 2) == (T1,)


faults = st.lists(st.sampled_from(["infra", "transient", "deterministic", "cancelled", "crash"]), min_size=200, max_size=200)


@given(faults, st.floats(0, 1, exclude_max=True), st.integers(1, 100))
def test_every_task_ends(sequence, jitter, max_attempts):
    """Whatever happens to it, within the sum of the limits; every delay is within the cap."""
    history: list[Attempt] = []
    number = 1
    for fault in sequence:
        verdict = judge(fault, number, tuple(history), max_attempts, jitter)
        if not isinstance(verdict, Again):
            break
        assert 0 <= verdict.delay_s <= SETTINGS.backoff_cap_s
        assert verdict.counts == (fault != "infra")
        history.append(past(number, fault))
        number += verdict.counts
    assert len(history) < max_attempts + SETTINGS.crash_limit + SETTINGS.infra_limit
