"""Live requests: what clients of the HTTP server wait for and use, rows for ``--json`` and a line of words."""

from __future__ import annotations

import msgspec

from swarm.core.health.liveness import workers_of
from swarm.core.snapshot import SwarmSnapshot
from swarm.views.blocks import Line
from swarm.views.words import duration, plural


class LiveModel(msgspec.Struct, frozen=True, kw_only=True):
    """Live requests for one model. With none waiting or under way: its last one ended a moment ago."""

    model: str
    waiting: int
    """Have no worker yet."""
    in_flight: int
    """At workers."""
    oldest_s: float | None
    """Age of the longest waiting one."""


class LiveRequests(msgspec.Struct, frozen=True, kw_only=True):
    """All live requests now."""

    waiting: int
    in_flight: int
    oldest_s: float | None
    yielded: int
    """Batch requests stopped for live ones by the workers that live now; their tasks used no attempt."""
    models: tuple[LiveModel, ...]


def live_requests(snapshot: SwarmSnapshot) -> LiveRequests:
    """As the HTTP server and the workers say."""
    models = tuple(
        LiveModel(
            model=view.model,
            waiting=view.waiting,
            in_flight=view.in_flight,
            oldest_s=view.oldest_s if view.waiting else None,
        )
        for view in snapshot.live
    )
    beats = [view.heartbeat for view in workers_of(snapshot) if view.alive and view.heartbeat is not None]
    return LiveRequests(
        waiting=sum(row.waiting for row in models),
        in_flight=sum(row.in_flight for row in models),
        oldest_s=max((row.oldest_s for row in models if row.oldest_s is not None), default=None),
        yielded=sum(beat.live.yielded for beat in beats if beat.live is not None),
        models=models,
    )


def live_line(live: LiveRequests) -> Line | None:
    """``live requests: 2 under way, 3 waiting, the oldest for 4s; 12 batch requests gave way``; None without any."""
    if not (live.waiting or live.in_flight or live.yielded):
        return None
    oldest = "" if live.oldest_s is None else f", the oldest for {duration(live.oldest_s)}"
    gave = f"; {plural(live.yielded, 'batch request')} gave way" if live.yielded else ""
    return Line(f"live requests: {live.in_flight} under way, {live.waiting} waiting{oldest}{gave}")
