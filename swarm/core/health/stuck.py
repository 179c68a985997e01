"""Stuck tasks: claimed by a living worker, yet without progress for too long."""

from __future__ import annotations

from swarm.config.settings import Settings
from swarm.core.snapshot import ClaimView, SwarmSnapshot


def stuck(snapshot: SwarmSnapshot, settings: Settings) -> tuple[ClaimView, ...]:
    """Claims without a new token or output chunk for more than ``brain.stuck_after_s``, by task id.

    A dead worker's claims are not stuck: they are taken back in the same turn. Nobody is judged in a turn of grace, nor
    when ``brain.stuck_after_s`` is 0.
    """
    if snapshot.grace or not settings.brain.stuck_after_s:
        return ()
    alive = {w.name for w in snapshot.workers if w.alive}
    late = (c for c in snapshot.claims if c.worker in alive and c.quiet_s > settings.brain.stuck_after_s)
    return tuple(sorted(late, key=lambda c: c.task_id))
