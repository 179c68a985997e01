"""How soon work went on after each stroke of bad luck, by the attempts in the tasks' own records. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

import msgspec

from swarm.clock import parse_iso


class Ran(msgspec.Struct, frozen=True):
    """One attempt of a task; times in seconds since the epoch."""

    worker: str
    began_s: float
    ended_s: float
    outcome: str
    suspect: bool = False
    """It is taken for the likeliest cause of its server's end: its task waits behind all others."""


class Struck(msgspec.Struct, kw_only=True):
    """One event as it happened."""

    kind: str
    workers: frozenset[str] = frozenset()
    """Whose tasks it may have ended."""
    at_s: float
    over_s: float
    """When the trouble was over: thawed, mended, started again, resumed."""


def ran(document: dict[str, object]) -> list[Ran]:
    """The attempts of a task that say when they began."""
    attempts = msgspec.convert(document["attempts"], list[dict[str, object]])
    return [
        Ran(
            str(a["worker"]),
            parse_iso(str(a["started_at"])),
            parse_iso(str(a["ended_at"])),
            str(a["outcome"]),
            bool(a.get("alone")),
        )
        for a in attempts
        if a.get("started_at")
    ]


def again_s(events: Sequence[Struck], tasks: Iterable[Sequence[Ran]], *, suspects: bool = False) -> list[list[float]]:
    """For each event: after how many seconds the tasks that it ended ran again, wherever.

    With ``suspects`` those whose attempt was a suspect, otherwise the rest.
    An attempt that ended without an outcome is put down to the last event that struck its worker while it ran.
    """
    found: list[list[float]] = [[] for _ in events]
    for attempts in tasks:
        for one, following in itertools.pairwise(attempts):
            if one.outcome in ("completed", "failed") or one.suspect != suspects:
                continue
            causes = [n for n, e in enumerate(events) if one.worker in e.workers and one.began_s <= e.at_s <= one.ended_s]
            if causes:
                cause = max(causes, key=lambda n: events[n].at_s)
                found[cause].append(following.began_s - events[cause].at_s)
    return found


def back_s(events: Sequence[Struck], attempts: Sequence[Ran]) -> list[float | None]:
    """For each event: after how many seconds after its trouble one of its workers began a task; None: never again."""
    by_worker: dict[str, list[float]] = {}
    for one in sorted(attempts, key=lambda a: a.began_s):
        by_worker.setdefault(one.worker, []).append(one.began_s)
    found: list[float | None] = []
    for event in events:
        later = [t - event.over_s for worker in event.workers for t in by_worker.get(worker, ()) if t >= event.over_s]
        found.append(min(later, default=None))
    return found


def began_between(attempts: Iterable[Ran], workers: frozenset[str], since_s: float, until_s: float) -> int:
    """How many attempts of these workers began in that time."""
    return sum(one.worker in workers and since_s < one.began_s < until_s for one in attempts)


def broken_off(attempts: Iterable[Ran], workers: frozenset[str], at_s: float) -> int:
    """How many attempts of these workers that ran at that moment ended without an outcome."""
    running = [one for one in attempts if one.worker in workers and one.began_s <= at_s <= one.ended_s]
    return sum(one.outcome not in ("completed", "failed") for one in running)


def busy_share(attempts: Sequence[Ran], slots: int) -> float:
    """Share of the slots that ran something, from the first start of an attempt until four fifths of the time have passed.

    What is left of a batch at its end keeps ever fewer slots busy: that says nothing about the way.
    """
    began_s = min((one.began_s for one in attempts), default=0.0)
    ended_s = began_s + 0.8 * (max((one.ended_s for one in attempts), default=0.0) - began_s)
    if ended_s <= began_s:
        return 0.0
    busy_s = sum(max(0.0, min(one.ended_s, ended_s) - one.began_s) for one in attempts)
    return busy_s / (slots * (ended_s - began_s))
