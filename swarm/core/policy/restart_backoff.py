"""When to restart a process that ended, and when to give up.

Pure arithmetic over monotonic seconds. There are two kinds of ends, with a limit each:

* **In service**: it had begun its work and was killed, or broke down later than ``start_s`` after it got ready. It is
  started again at once, ``burst`` times within ``healthy_s``; beyond that once every ``healthy_s / burst`` (20 times in ten
  minutes, then once in 30 s).
* **At its start**: it never got ready, did no work, or broke down by itself at once. The next start is at once, then after
  ``base_s``, twice that and so on up to ``cap_s``; a life in service ends that series.
"""

from __future__ import annotations

import msgspec

from swarm.core.backoff import doubled_s


class RestartPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """The limits."""

    base_s: float = 10.0
    cap_s: float = 300.0
    healthy_s: float = 600.0
    """After so long without an end all earlier ones are forgotten."""
    burst: int = 20
    """Ends in service within ``healthy_s`` that are followed by a start at once."""
    start_s: float = 2.0
    """Who breaks down by itself within so long after it got ready has failed at its start."""
    never_ready_limit: int | None = None
    """Starts in a row that never got ready before quarantine; None: never quarantined."""
    quarantine_s: float = 900.0
    """A quarantined one is given one more try after this long."""


class RestartRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What is remembered of one process between its lives."""

    restarts: int = 0
    """Ends so far, for display; never reset."""
    failures: int = 0
    """Starts in a row that failed."""
    never_ready: int = 0
    """Starts in a row that never got ready."""
    booked_until_s: float = 0.0
    """Each end in service books ``healthy_s / burst``, from the end of what was booked before."""
    due_s: float = 0.0
    """Monotonic time from which it may start again."""
    quarantined: bool = False


class Life(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a life that is over."""

    ready_s: float | None = None
    """For how long it had been ready; None: it never was."""
    worked: bool = False
    """It had begun its work: brain and workers with a turn, a server with an answer."""
    broke: bool = False
    """It failed by itself: an exit code, or a fault that the kernel answers with a signal. Not: killed, asked to end."""


def delay_s(failures: int, policy: RestartPolicy) -> float:
    """The wait before the next start after so many earlier failures in a row."""
    return doubled_s(policy.base_s, failures - 1, policy.cap_s) if failures > 0 else 0.0


def in_service(life: Life, policy: RestartPolicy) -> bool:
    """Whether it ended in the midst of its work, and not at its start."""
    ready_s = life.ready_s or 0.0
    worked = life.worked or ready_s >= policy.base_s  # on a full disk no work can be shown
    return worked and not (life.broke and ready_s < policy.start_s)


def after_end(record: RestartRecord, life: Life, *, now_s: float, policy: RestartPolicy) -> RestartRecord:
    """The record once a life has ended."""
    if in_service(life, policy):
        booked_s = max(record.booked_until_s, now_s) + policy.healthy_s / policy.burst
        wait_s = max(0.0, booked_s - now_s - policy.healthy_s)
        return RestartRecord(restarts=record.restarts + 1, booked_until_s=booked_s, due_s=now_s + wait_s)
    never_ready = record.never_ready + 1 if life.ready_s is None else 0
    quarantined = policy.never_ready_limit is not None and never_ready >= policy.never_ready_limit
    wait_s = policy.quarantine_s if quarantined else delay_s(record.failures, policy)
    return RestartRecord(
        restarts=record.restarts + 1,
        failures=record.failures + 1,
        never_ready=never_ready,
        booked_until_s=record.booked_until_s,
        due_s=now_s + wait_s,
        quarantined=quarantined,
    )


def after_ready(record: RestartRecord) -> RestartRecord:
    """The record once it proved able to serve: no longer suspected of never getting ready."""
    return msgspec.structs.replace(record, never_ready=0, quarantined=False)
