"""A circuit breaker as a value: closed, open for a while, then half-open with one trial."""

from __future__ import annotations

from typing import Literal

import msgspec

from swarm.core.backoff import doubled_s

TRIP_AFTER = 3
"""Infra faults in a row that open it: one may be chance, three are a broken server or card."""
BACKOFF_BASE_S = 1.0
BACKOFF_CAP_S = 15.0
"""A trial is a probe, which costs a broken server nothing and a repaired one the time until it is due."""


class Breaker(msgspec.Struct, frozen=True):
    """``faults`` in a row, how often it ``tripped`` since the last success, and its end (monotonic seconds)."""

    faults: int = 0
    tripped: int = 0
    open_until_s: float = 0.0


def after_infra_fault(breaker: Breaker, now_s: float, *, proven: bool = False) -> Breaker:
    """One more fault. Open for 1, 2, 4 … 15 s once there were ``TRIP_AFTER`` in a row, again after each failed trial.

    ``proven``: a probe of known good failed as well, which makes one enough.
    """
    faults = breaker.faults + 1
    if (faults < TRIP_AFTER and not (proven or breaker.tripped)) or (breaker.tripped and now_s < breaker.open_until_s):
        return Breaker(faults, breaker.tripped, breaker.open_until_s)
    return Breaker(faults, breaker.tripped + 1, now_s + doubled_s(BACKOFF_BASE_S, breaker.tripped, BACKOFF_CAP_S))


def after_success(_breaker: Breaker) -> Breaker:
    """The closed breaker, after a success."""
    return Breaker()


def position(breaker: Breaker, now_s: float) -> Literal["closed", "open", "trial"]:
    """``trial``: it was open long enough; a probe finds out, or one task at a time where none can be made."""
    if not breaker.tripped:
        return "closed"
    return "open" if now_s < breaker.open_until_s else "trial"
