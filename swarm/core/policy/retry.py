"""What happens after a failed attempt: retry (when, counted or not), fail, or cancel. Pure.

* The classes of blame are those of ``swarm.core.faults``.
* Infra and suspect faults never use up an attempt of the task but are bounded by ``infra_limit``; transient ones count and
  wait; deterministic ones would fail again.
* A load, which keeps its card from all other models, is given up after as many infra faults as attempts: who placed it
  decides anew.
* Crashes and poison faults have limits of their own, so that a task which kills its workers or breaks its servers stops.
* Delays use full jitter: ``random(0, min(cap, base * 2^n))``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, assert_never

import msgspec

from swarm.config.settings import RetrySettings
from swarm.core.backoff import doubled_s
from swarm.core.faults import LOST_NODE, FaultClass
from swarm.core.task import Attempt, Task, TaskClass

UNCOUNTED = ("infra", "suspect")
"""Faults that use up no attempt."""
LEAST_DELAY_S = 0.1
"""Of what waits behind others: without any it would be back at the front."""
_ELSEWHERE = 2
"""So many times ``poison_limit`` where another server is there but never gets to it."""
_SHOWN_CHARS = 600


class Again(msgspec.Struct, frozen=True):
    """Try once more after ``delay_s``; ``counts`` says whether this attempt used up one of the task's own."""

    delay_s: float
    counts: bool
    reason: str


class GiveUp(msgspec.Struct, frozen=True):
    """Dead-letter the task."""

    reason: str


class Cancelled(msgspec.Struct, frozen=True):
    """Cancelled by request; no failure."""

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
    worker: str = "",
    message: str = "",
    others: bool = True,
) -> Verdict:
    """The verdict on attempt number ``attempt`` that ended with a fault, as ``message`` tells.

    ``attempts`` are the earlier ones, oldest first; ``jitter`` is a random number in [0, 1). For a poison fault: the
    ``worker`` whose server it broke, and whether ``others`` live that could try it.
    """
    match fault:
        case "cancelled":
            return Cancelled(kind)
        case "deterministic":
            return GiveUp(f"{kind}: would fail again")
        case "crash":
            return after_crash(attempt=attempt, attempts=attempts, settings=settings, jitter=jitter)
        case "infra" | "suspect":
            limit = settings.infra_limit
            if task.task_class is TaskClass.RESOURCE:
                limit = min(limit, task.max_attempts or settings.max_attempts)
            return _after_infra(
                fault, kind, attempt=attempt, attempts=attempts, limit=limit, settings=settings, jitter=jitter
            )
        case "poison":
            broke = [*_broke(this_life(attempts, attempt)), Breakage(worker, kind, message)]
            return _after_poison(broke, task=task, attempt=attempt, settings=settings, jitter=jitter, others=others)
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
    numbered = sum(past.fault not in UNCOUNTED for past in life)
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
    fault: FaultClass,
    kind: str,
    *,
    attempt: int,
    attempts: Sequence[Attempt],
    limit: int,
    settings: RetrySettings,
    jitter: float,
) -> Again | GiveUp:
    faults = 1 + sum(past.fault in UNCOUNTED for past in this_life(attempts, attempt))
    what = "server or card failed" if fault == "infra" else "failed together with others"
    if faults >= limit:
        return GiveUp(f"{kind}: {what}, {faults} times (limit {limit})")
    # Who takes it next works elsewhere: a worker takes nothing while the machine of its card is lost.
    delay_s = 0.0 if kind in LOST_NODE else backoff_s(faults - 1, settings=settings, jitter=jitter)
    if fault == "suspect":
        delay_s = max(LEAST_DELAY_S, delay_s)
    return Again(delay_s, counts=False, reason=f"{kind}: {what}, {faults} of {limit}")


class Breakage(NamedTuple):
    """One server that a request broke: whose, the kind of fault, and what was said."""

    worker: str
    kind: str
    message: str


def _broke(life: Sequence[Attempt]) -> list[Breakage]:
    return [
        Breakage(past.worker, past.error.type if past.error else "?", past.error.message if past.error else "")
        for past in life
        if past.fault == "poison"
    ]


def _after_poison(
    broke: Sequence[Breakage],
    *,
    task: Task,
    attempt: int,
    settings: RetrySettings,
    jitter: float,
    others: bool,
) -> Again | GiveUp:
    """Two different servers are proof enough. On one, ``poison_limit`` times; more where another could still try it."""
    workers = {one.worker for one in broke}
    most = settings.poison_limit * (_ELSEWHERE if others else 1)
    own_limit = task.max_attempts is not None and attempt >= task.max_attempts
    if len(workers) > 1 or len(broke) >= most or own_limit:
        listed = "; ".join(f"{one.worker}: {one.kind}, {one.message[:_SHOWN_CHARS]}" for one in broke)
        what = f"{len(workers)} servers" if len(workers) > 1 else f"the same server {len(broke)} times"
        return GiveUp(f"the request broke {what} that served others ({listed})")
    delay_s = max(LEAST_DELAY_S, backoff_s(len(broke), settings=settings, jitter=jitter))
    return Again(delay_s, counts=True, reason=f"{broke[-1].kind}: the request broke a server that serves others")


def runs_alone(attempts: Sequence[Attempt], attempt: int) -> bool:
    """Whether attempt number ``attempt`` must have its server to itself, so that a fault of it proves something."""
    return any(past.alone for past in this_life(attempts, attempt))


Behind = Literal["", "others", "suspects"]


def waits_behind(attempts: Sequence[Attempt]) -> Behind:
    """Behind what a task waits after these attempts: one that is likely to have broken a server behind the others of its
    priority, one that did break one behind those as well, since most of those did not.
    """
    if not attempts:
        return ""
    return "suspects" if attempts[-1].fault == "poison" else "others" if attempts[-1].alone else ""


def last_broke(attempts: Sequence[Attempt], attempt: int, worker: str) -> str | None:
    """When it last broke this worker's server (ISO 8601); None if it did not."""
    ended = [past.ended_at for past in this_life(attempts, attempt) if past.fault == "poison" and past.worker == worker]
    return ended[-1] if ended else None


def blamed_at(attempts: Sequence[Attempt], attempt: int) -> tuple[str, ...]:
    """The workers whose servers it was found to have broken, each once."""
    return tuple(dict.fromkeys(past.worker for past in this_life(attempts, attempt) if past.fault == "poison"))


def hits(attempts: Sequence[Attempt], attempt: int) -> int:
    """How often it failed together with others."""
    return sum(past.fault == "suspect" for past in this_life(attempts, attempt))


def _after_transient(
    kind: str, *, attempt: int, attempts: Sequence[Attempt], limit: int, settings: RetrySettings, jitter: float
) -> Again | GiveUp:
    others = sum(past.fault in ("crash", "poison") for past in this_life(attempts, attempt))  # they have limits of their own
    errors = max(1, attempt - others)
    if errors >= limit:
        return GiveUp(f"{kind}: attempt {errors} of {limit}")
    delay_s = backoff_s(errors - 1, settings=settings, jitter=jitter)
    return Again(delay_s, counts=True, reason=f"{kind}: attempt {errors} of {limit}")


def backoff_s(n: int, *, settings: RetrySettings, jitter: float) -> float:
    """Seconds to wait after the fault number ``n`` (from 0): within [0, cap]."""
    return jitter * doubled_s(settings.backoff_base_s, n, settings.backoff_cap_s)


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
