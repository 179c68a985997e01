"""Which finished documents are let go: by age, and by number beyond a day of age. Never anything else."""

from __future__ import annotations

from collections.abc import Iterator

from swarm.config.settings import BrainSettings
from swarm.core.policy.decisions import Purge, PurgeBatches
from swarm.core.snapshot import FinishedShard, SwarmSnapshot

DAY_S = 86400.0
COUNT_MIN_AGE_S = DAY_S
"""``retention_count`` never takes what ended more recently: somebody may still be about to fetch it."""
MOST_PER_TURN = 1000
"""Documents removed in one turn of the brain: some tens of milliseconds."""
SHARDS_PER_TURN = 100


def old_after_s(settings: BrainSettings) -> float | None:
    """The age from which a finished document may be let go at all; None: everything is kept."""
    ages = []
    if settings.retention_days > 0:
        ages.append(settings.retention_days * DAY_S)
    if settings.retention_count:
        ages.append(COUNT_MIN_AGE_S)
    return min(ages, default=None)


def retention(snapshot: SwarmSnapshot, settings: BrainSettings) -> Iterator[Purge | PurgeBatches]:
    """At most one purge a turn; in a turn of grace none. Batches come when nothing is left to purge for now."""
    if snapshot.grace:
        return
    purge = next(_documents(snapshot, settings), None)
    age_s = old_after_s(settings)
    if purge is not None:
        yield purge
    elif snapshot.finished.emptied and age_s is not None:
        yield PurgeBatches(older_than_s=age_s, reason="nothing is left of them")


def _documents(snapshot: SwarmSnapshot, settings: BrainSettings) -> Iterator[Purge]:
    age_s = settings.retention_days * DAY_S
    old = [shard for shard in snapshot.finished.old if 0 < age_s < shard.oldest_age_s]
    if old:
        yield _purge(old, age_s, MOST_PER_TURN, f"older than {settings.retention_days:g} days (brain.retention_days)")
        return
    if not settings.retention_count:
        return
    excess = snapshot.finished.documents - settings.retention_count
    late = [shard for shard in snapshot.finished.old if shard.oldest_age_s > COUNT_MIN_AGE_S]
    if excess > 0 and late:
        reason = f"{excess} more than {settings.retention_count} finished (brain.retention_count)"
        yield _purge(late, COUNT_MIN_AGE_S, min(excess, MOST_PER_TURN), reason)


def _purge(shards: list[FinishedShard], age_s: float, limit: int, reason: str) -> Purge:
    chosen = sorted(shards, key=lambda shard: -shard.oldest_age_s)[:SHARDS_PER_TURN]
    return Purge(shards=tuple((s.state, s.shard) for s in chosen), older_than_s=age_s, limit=limit, reason=reason)
