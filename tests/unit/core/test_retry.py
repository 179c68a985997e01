"""The verdict on failed attempts, as tables and as properties."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.config.settings import RetrySettings
from swarm.core.faults import LOST_NODE
from swarm.core.health.blame import AMBIGUOUS
from swarm.core.policy.retry import (
    Again,
    Cancelled,
    GiveUp,
    after_crash,
    after_fault,
    backoff_s,
    crash_delay_s,
    runs_alone,
    this_life,
    waits_behind,
)
from swarm.core.task import Attempt, Task, TaskClass, TaskError

SETTINGS = RetrySettings(max_attempts=3, crash_limit=3, infra_limit=5, backoff_base_s=1.0, backoff_cap_s=10.0)


def past(number: int, fault: Any, outcome: Any = "retried", *, worker: str = "w", alone: bool = False) -> Attempt:
    outcome = "crashed" if fault == "crash" else outcome
    error = TaskError(type="garbage", message="what it said") if fault == "poison" else None
    return Attempt(attempt=number, worker=worker, outcome=outcome, fault=fault, error=error, alone=alone)


def judge(
    fault: Any,
    attempt: int,
    attempts: tuple[Attempt, ...] = (),
    max_attempts: int | None = None,
    jitter: float = 0.5,
    *,
    others: bool = True,
    task_class: TaskClass = TaskClass.LLM,
) -> Any:
    task = Task(task_id="t", task_class=task_class, max_attempts=max_attempts)
    return after_fault(
        fault=fault,
        kind="k",
        task=task,
        attempt=attempt,
        attempts=attempts,
        settings=SETTINGS,
        jitter=jitter,
        worker="w",
        message="broken",
        others=others,
    )


T1, T2 = past(1, "transient"), past(2, "transient")
I1 = past(1, "infra")
S1 = past(1, "suspect")
C1, C2 = past(1, "crash"), past(2, "crash")


@pytest.mark.parametrize(
    ("fault", "attempt", "attempts", "expected"),
    [
        ("suspect", 1, (), (0.5, False)),
        ("suspect", 1, (I1, I1, I1, I1), GiveUp),
        ("poison", 1, (), (1.0, True)),
        ("poison", 2, (past(1, "poison"),), (2.0, True)),  # the same server
        ("poison", 2, (past(1, "poison", worker="v"),), GiveUp),
        ("transient", 3, (past(1, "poison"), past(2, "poison")), (0.5, True)),  # limits of their own
        ("crash", 2, (S1, past(1, "poison")), (0.0, True)),
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


def test_a_load_that_fails_for_ever_does_not_keep_its_card_from_other_models():
    """Between two tries its worker is given nothing else, and no limit of attempts ends what is the server's fault."""
    assert isinstance(judge("infra", 1, (I1,), task_class=TaskClass.RESOURCE), Again)
    assert isinstance(judge("infra", 1, (I1, I1), task_class=TaskClass.RESOURCE), GiveUp)
    assert isinstance(judge("infra", 1, (I1, I1), 9, task_class=TaskClass.RESOURCE), Again), "its own limit wins"


@pytest.mark.parametrize("kind", sorted(LOST_NODE))
def test_what_a_lost_machine_held_goes_on_elsewhere_at_once_and_uses_up_no_attempt(kind):
    task = Task(task_id="t", task_class=TaskClass.LLM)
    more = {"task": task, "attempt": 1, "attempts": (I1, I1, I1), "settings": SETTINGS, "jitter": 1.0}
    verdict = after_fault(fault="infra", kind=kind, **more)
    assert isinstance(verdict, Again)
    assert (verdict.delay_s, verdict.counts) == (0.0, False)
    assert kind not in AMBIGUOUS, "and its request is not suspected"


def test_the_tasks_own_limit_wins():
    assert isinstance(judge("transient", 1, max_attempts=1), GiveUp)
    assert isinstance(judge("transient", 3, (T1, T2), max_attempts=4), Again)


@pytest.mark.parametrize(("others", "times"), [(False, 3), (True, 6)])
def test_where_only_one_server_ever_tries_it_poison_ends_as_well(others, times):
    marks = tuple(past(n, "poison") for n in range(1, times))
    assert isinstance(judge("poison", times - 1, marks[:-1], others=others), Again)
    assert isinstance(judge("poison", times, marks, others=others), GiveUp)
    assert isinstance(judge("poison", 1, max_attempts=1), GiveUp), "the task's own limit wins"


def test_poison_is_given_up_with_the_evidence():
    verdict = judge("poison", 2, (past(1, "poison", worker="v"),))
    assert "2 servers" in verdict.reason
    assert "v: garbage, what it said; w: k, broken" in verdict.reason


def test_what_may_be_poison_never_goes_back_at_once():
    assert judge("suspect", 1, jitter=0.0).delay_s > 0
    assert judge("poison", 1, jitter=0.0).delay_s > 0


def test_who_runs_alone_and_who_waits_behind_whom():
    alone, company = past(1, "suspect", alone=True), past(1, "suspect")
    assert (runs_alone((alone, company), 1), runs_alone((company,), 1)) == (True, False)
    assert not runs_alone((alone, past(1, "transient", "failed")), 1), "put back by hand it starts afresh"
    behind = [waits_behind(made) for made in ((), (company,), (alone,), (past(1, "poison"),), (past(1, "poison"), I1))]
    assert behind == ["", "", "others", "suspects", ""]


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


kinds = ["infra", "transient", "deterministic", "cancelled", "crash", "poison", "suspect"]
faults = st.lists(st.sampled_from(kinds), min_size=200, max_size=200)


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
        assert verdict.counts == (fault not in ("infra", "suspect"))
        history.append(past(number, fault))
        number += verdict.counts
    poison = 2 * SETTINGS.poison_limit
    assert len(history) < max_attempts + SETTINGS.crash_limit + SETTINGS.infra_limit + poison
