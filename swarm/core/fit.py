"""Whether a worker may be given a model at all: cards, memory, and loads that failed lately."""

from __future__ import annotations

from swarm.core.demand import Demand
from swarm.core.snapshot import SwarmSnapshot, WorkerView
from swarm.core.task import canonical_model
from swarm.settings import Settings

_FIRST_PAUSE_S = 10.0


def misfit(view: WorkerView, demand: Demand, snapshot: SwarmSnapshot, settings: Settings) -> str | None:
    """Why this worker cannot be given this model now, with the numbers; None if it can."""
    return (
        _too_few_cards(view, demand.model, settings)
        or _too_little_memory(view, demand, snapshot)
        or failing(view, demand.model, settings)
    )


def failing(view: WorkerView, model: str, settings: Settings) -> str | None:
    """Says that this worker's loads of the model failed and it is still pausing before another try; None otherwise."""
    tally = view.heartbeat.models.get(model) if view.heartbeat is not None else None
    if tally is None or not tally.load_failures:
        return None
    pause_s = min(settings.retry.backoff_cap_s, _FIRST_PAUSE_S * 2 ** min(tally.load_failures - 1, 30))
    left_s = pause_s - view.load_failed_s.get(model, 0.0)
    if left_s <= 0:
        return None
    return f"{view.name} failed to load {model} {tally.load_failures}x in a row; tried again after a pause of {pause_s:.0f}s"


def _too_few_cards(view: WorkerView, model: str, settings: Settings) -> str | None:
    needed = next((spec.gpus_needed for name, spec in settings.models.items() if canonical_model(name) == model), 1)
    has = len(view.row.gpus) if view.row is not None else 0
    if needed <= max(1, has):
        return None
    return f"{model} needs {needed} cards and {view.name} has {has}"


def _too_little_memory(view: WorkerView, demand: Demand, snapshot: SwarmSnapshot) -> str | None:
    uuids = view.row.gpu_uuids if view.row is not None else ()
    totals = [g.memory_total_mib for g in snapshot.gpus if g.uuid in uuids and g.memory_total_mib is not None]
    if not demand.size_mib or not totals or len(totals) < len(uuids) or demand.size_mib <= sum(totals):
        return None
    return f"{demand.model} needs {demand.size_mib} MiB and {view.name} has {sum(totals)} MiB"
