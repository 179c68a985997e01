"""What happens after a failed attempt: again (when, counted or not), give up, or cancelled. Decides, never acts.

Four classes of blame, see ``swarm.core.faults``: infra faults never use up an attempt of the task but are bounded by
``infra_limit``; transient ones count and wait; deterministic ones would fail again; a crash has a limit of its own, so
that a task which kills its workers stops. Delays use full jitter: ``random(0, min(cap, base * 2^n))``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import assert_never

import msgspec

from swarm.core.faults import FaultClass
from swarm.core.task import Attempt, Task
from swarm.settings import RetrySettings

_MAX_DOUBLINGS = 60
"""2^60 seconds is past any cap; more would only overflow."""


class Again(msgspec.Struct, frozen=True):
    """Try once more after ``delay_s``; ``counts`` says whether this attempt used up one of the task's own."""

    delay_s: float
    counts: bool
    reason: str


class GiveUp(msgspec.Struct, frozen=True):
    """Dead-letter the task."""

    reason: str


class Cancelled(msgspec.Struct, frozen=True):
    """Somebody asked for it; no failure."""

    reason: str


Verdict = Again | GiveUp | Cancelled


def after_fault(
    *,
    fault: FaultClass,
    kind: str,
    task: Task,
    attempt: int,
    attempts: Sequence[Attempt],
    settings: RetrySettings,
    jitter: float,
) -> Verdict:
    """The verdict on attempt number ``attempt`` that ended with a fault.

    ``attempts`` are the earlier ones, oldest first; ``jitter`` is a random number in [0, 1).
    """
    match fault:
        case "cancelled":
            return Cancelled(kind)
        case "deterministic":
            return GiveUp(f"{kind}: would fail again")
        case "crash":
            return after_crash(attempt=attempt, attempts=attempts, settings=settings, jitter=jitter)
        case "infra":
            return _after_infra(kind, attempt=attempt, attempts=attempts, settings=settings, jitter=jitter)
        case "transient":
            limit = task.max_attempts or settings.max_attempts
            return _after_transient(kind, attempt=attempt, attempts=attempts, limit=limit, settings=settings, jitter=jitter)
        case _:
            assert_never(fault)


def after_crash(*, attempt: int, attempts: Sequence[Attempt], settings: RetrySettings, jitter: float) -> Again | GiveUp:
    """The verdict on a task whose worker died during attempt number ``attempt``. The first time it goes on at once.

    Attempt numbers without a record are crashes too: only a death leaves none.
    """
    life = this_life(attempts, attempt)
    recorded = sum(past.fault == "crash" for past in life)
    numbered = sum(past.fault != "infra" for past in life)
    crashes = 1 + recorded + max(0, attempt - 1 - numbered)
    if crashes >= settings.crash_limit:
        return GiveUp(f"crash: its worker died {crashes} times holding it (limit {settings.crash_limit})")
    delay_s = 0.0 if crashes == 1 else backoff_s(crashes - 2, settings=settings, jitter=jitter)
    return Again(delay_s, counts=True, reason=f"crash {crashes} of {settings.crash_limit}")


def crash_delay_s(attempts: Sequence[Attempt], *, settings: RetrySettings, jitter: float) -> float | None:
    """``after_crash`` for recovery, which has recorded the crash already: the delay, or None to give up."""
    verdict = after_crash(attempt=attempts[-1].attempt, attempts=attempts[:-1], settings=settings, jitter=jitter)
    return verdict.delay_s if isinstance(verdict, Again) else None


def _after_infra(
    kind: str, *, attempt: int, attempts: Sequence[Attempt], settings: RetrySettings, jitter: float
) -> Again | GiveUp:
    faults = 1 + sum(past.fault == "infra" for past in this_life(attempts, attempt))
    if faults >= settings.infra_limit:
        return GiveUp(f"{kind}: server or card failed {faults} times (limit {settings.infra_limit})")
    delay_s = backoff_s(faults - 1, settings=settings, jitter=jitter)
    return Again(delay_s, counts=False, reason=f"{kind}: server or card failed, {faults} of {settings.infra_limit}")


def _after_transient(
    kind: str, *, attempt: int, attempts: Sequence[Attempt], limit: int, settings: RetrySettings, jitter: float
) -> Again | GiveUp:
    crashes = sum(past.fault == "crash" for past in this_life(attempts, attempt))
    errors = max(1, attempt - crashes)
    if errors >= limit:
        return GiveUp(f"{kind}: attempt {errors} of {limit}")
    delay_s = backoff_s(errors - 1, settings=settings, jitter=jitter)
    return Again(delay_s, counts=True, reason=f"{kind}: attempt {errors} of {limit}")


def backoff_s(n: int, *, settings: RetrySettings, jitter: float) -> float:
    """Seconds to wait after the fault number ``n`` (from 0): within [0, cap]."""
    return jitter * min(settings.backoff_cap_s, settings.backoff_base_s * 2.0 ** min(max(n, 0), _MAX_DOUBLINGS))


def this_life(attempts: Sequence[Attempt], attempt: int) -> tuple[Attempt, ...]:
    """The earlier attempts since the task was last set going: a retry from the dead letters starts counting afresh.

    Numbers never fall within one life (an uncounted attempt repeats its number), and nothing follows a final outcome.
    """
    life: list[Attempt] = []
    bound = attempt
    for past in reversed(attempts):
        if past.attempt > bound or past.outcome in ("completed", "failed", "cancelled"):
            break
        life.append(past)
        bound = past.attempt
    return tuple(reversed(life))
