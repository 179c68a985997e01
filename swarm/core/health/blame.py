"""Decides whether the request or the server is to blame for an ambiguous fault.

* A server that answers others after the fault is not broken: the request is to blame.
* A server that does not answer a probe known to be good either is broken: the server is to blame.
* Requests that failed at one moment (their runner died under all of them) prove nothing about one another. The likeliest
  culprit runs alone from then on, where its next fault is conclusive.
* A request that ran alone on a server which had answered just before, and leaves it broken, is to blame as well.
* Otherwise nobody is to blame as yet.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import msgspec

MOMENT_S = 0.25
"""Faults within this time of one another have one cause. What dies with a runner is told within milliseconds; the rest is
for a busy host."""
SKEW_S = 0.005
"""The usual time between a fault and its report."""
MOST_HITS = 3
"""Who failed together with others so often runs alone, likely or not."""
HANGS = frozenset({"first_token_timeout", "token_gap_timeout", "timeout"})
AMBIGUOUS = HANGS | {
    "busy",
    "connection_lost",
    "garbage",
    "half_stream",
    "out_of_memory",
    "runner_died",
    "server_error",
}
"""Kinds of faults of a request that either side may have caused. Not in it: what is plainly the server's (nothing listens,
a load failed) and what is plainly the request's (refused, too long)."""
DEADLY = frozenset({"connection_lost", "half_stream", "out_of_memory", "runner_died"})
"""Of these, those which may have ended the runner, and with it all that ran beside."""
BLAMELESS = frozenset({"busy", "timeout"})
"""Of these, those which say nothing against a request although the server works: it was too slow, or came at a bad time."""

Blame = Literal["request", "server", "unclear"]


class Broken(msgspec.Struct, frozen=True, kw_only=True):
    """A request that ended with an ambiguous fault. Times are monotonic seconds."""

    task_id: str
    kind: str
    began_s: float
    heard_s: float
    """When the last piece of its answer came; before ``began_s``: none did."""
    ended_s: float
    pieces: int
    """Pieces of its answer that had come."""
    hits: int
    """Earlier faults of this task that proved nothing."""
    alone: bool
    """Nothing ran beside it, by order, and the server had answered just before."""
    beside: bool = True
    """Others were under way when it ended; their outcomes arrive a moment later."""

    @property
    def hung(self) -> bool:
        """Whether it fell silent instead of failing."""
        return self.kind in HANGS

    @property
    def silent_s(self) -> float:
        """When its silence began: its last sign of life, or its end."""
        return max(self.began_s, self.heard_s) if self.hung else self.ended_s


class Witness(NamedTuple):
    """Another request to the same server: when it began, and when it last gave a sign of life (text, its answer)."""

    began_s: float
    heard_s: float
    under_way: bool = False
    """More may come of it."""


class Probed(NamedTuple):
    """A probe of known good: from when to when, and what went wrong with it (empty: it was answered)."""

    began_s: float
    ended_s: float
    problem: str = ""


class Verdict(msgspec.Struct, frozen=True):
    """Who is to blame, the evidence in words, and whether the task has to run alone from now on."""

    blame: Blame
    why: str
    alone: bool = False


def verdict(
    one: Broken, others: Sequence[Broken], witnesses: Sequence[Witness], probed: Probed | None, now_s: float
) -> Verdict | None:
    """The verdict on ``one``; None while the evidence does not suffice.

    ``others`` are the other requests with an ambiguous fault, decided upon or not; ``probed`` is the last probe. One that
    was under way when several failed, and goes on, shows that the runner lived. What began just before the first of them
    does not: it may have come to the next runner already, for faults are told a little late.
    """
    if one.beside and now_s < one.ended_s + MOMENT_S:
        return None
    harmed = [other for other in others if _together(one, other)]
    first_s = min(other.ended_s for other in (one, *harmed))
    before = [w for w in witnesses if w.began_s < first_s - SKEW_S]
    survived = one.hung or any(w.heard_s > max(other.ended_s for other in (one, *harmed)) + MOMENT_S for w in before)
    if _answers(one, witnesses):
        if not harmed or survived:
            return _requests(one, "the server answered others after it", harmless=survived)
        return None if any(w.under_way for w in before) else _unclear(one, harmed)
    if probed is not None and probed.problem and one.began_s <= probed.ended_s:
        return _servers(one, harmed, probed.problem)
    if probed is not None and not probed.problem and probed.began_s >= one.ended_s:
        return _unclear(one, harmed) if harmed else _requests(one, "the server answered a probe after it", harmless=False)
    return None


def _answers(one: Broken, witnesses: Sequence[Witness]) -> bool:
    """Others were answered after the fault; with a hang, in the second half of its silence."""
    if one.hung:
        return any(w.heard_s > (one.silent_s + one.ended_s) / 2 for w in witnesses)
    return any(w.heard_s > one.ended_s + (0.0 if w.began_s >= one.ended_s else MOMENT_S) for w in witnesses)


def _together(one: Broken, other: Broken) -> bool:
    """Whether both may have failed by one cause: they were under way at one time, and fell silent at one moment."""
    if one.began_s >= other.ended_s or other.began_s >= one.ended_s:
        return False
    return one.silent_s - MOMENT_S <= other.ended_s and other.silent_s - MOMENT_S <= one.ended_s


def _requests(one: Broken, why: str, *, harmless: bool) -> Verdict:
    """Who may take others with it has its servers to itself from now on."""
    return Verdict("request", why, alone=one.alone or (one.kind in DEADLY and not harmless))


def _unclear(one: Broken, harmed: Sequence[Broken]) -> Verdict:
    why = f"{len(harmed)} other{'s' if len(harmed) > 1 else ''} failed with it, and the server works: one of them broke it"
    return Verdict("unclear", why, alone=one.alone or one.hits + 1 >= MOST_HITS or _likeliest(one, harmed))


def _servers(one: Broken, harmed: Sequence[Broken], problem: str) -> Verdict:
    if one.alone and not harmed:
        return Verdict(
            "request", f"it ran alone on a server that had just answered, and left it broken ({problem})", alone=True
        )
    return Verdict("server", f"the server did not answer a probe either ({problem})", alone=_likeliest(one, harmed))


def _likeliest(one: Broken, harmed: Sequence[Broken]) -> bool:
    """Most requests that break a server do so before the first of their answer; then the record tells, then who began last.

    Who breaks it later is found by ``MOST_HITS``.
    """

    def suspicion(of: Broken) -> tuple[bool, int, int, float, str]:
        return not of.pieces, of.hits, -of.pieces, of.began_s, of.task_id

    return all(suspicion(one) > suspicion(other) for other in harmed)
