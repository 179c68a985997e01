"""When a process that ended is started again, and when to stop trying: pure arithmetic over monotonic seconds."""

from __future__ import annotations

import msgspec


class RestartPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """Waits of 0, ``base_s``, twice that, and so on up to ``cap_s``; forgotten after ``healthy_s`` of good service."""

    base_s: float = 10.0
    cap_s: float = 300.0
    healthy_s: float = 600.0
    never_ready_limit: int | None = None
    """Starts in a row that never got ready before quarantine; None: never quarantined."""
    quarantine_s: float = 900.0
    """A quarantined one is given one more try after this long."""


class RestartRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What is remembered of one process between its lives."""

    restarts: int = 0
    """Ends so far, for people; never forgotten."""
    failures: int = 0
    """Ends in a row without ``healthy_s`` of service in between."""
    never_ready: int = 0
    """Starts in a row that never got ready."""
    due_s: float = 0.0
    """Monotonic time from which it may start again."""
    quarantined: bool = False


def delay_s(failures: int, policy: RestartPolicy) -> float:
    """The wait before the next start after so many earlier failures in a row."""
    if failures <= 0:
        return 0.0
    # The exponent is bounded so that a year of crashes does not overflow.
    return min(policy.cap_s, policy.base_s * 2.0 ** min(failures - 1, 64))


def after_end(
    record: RestartRecord, *, now_s: float, ready_since_s: float | None, policy: RestartPolicy, orderly: bool = False
) -> RestartRecord:
    """The record once a life has ended.

    ``ready_since_s`` is when it became ready in that life, None if it never did. ``orderly``: it ended of its own will,
    as when an operator sends one worker SIGTERM to have it started afresh. That is no failure, unless it comes within
    ``base_s`` of getting ready: a process that keeps ending at once is broken, however politely it does so.
    """
    if orderly and ready_since_s is not None and now_s - ready_since_s >= policy.base_s:
        return RestartRecord(restarts=record.restarts + 1, due_s=now_s)
    healthy = ready_since_s is not None and now_s - ready_since_s >= policy.healthy_s
    failures = 0 if healthy else record.failures
    never_ready = record.never_ready + 1 if ready_since_s is None else 0
    quarantined = policy.never_ready_limit is not None and never_ready >= policy.never_ready_limit
    wait_s = policy.quarantine_s if quarantined else delay_s(failures, policy)
    return RestartRecord(
        restarts=record.restarts + 1,
        failures=failures + 1,
        never_ready=never_ready,
        due_s=now_s + wait_s,
        quarantined=quarantined,
    )


def after_ready(record: RestartRecord) -> RestartRecord:
    """The record once it proved able to serve: no longer suspected of never getting ready."""
    return msgspec.structs.replace(record, never_ready=0, quarantined=False)
