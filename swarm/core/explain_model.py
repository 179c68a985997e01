"""Why is a model on these cards, and not on those: the functions that place it, phrased for people."""

from __future__ import annotations

from collections.abc import Sequence

from swarm.core.demand import Demand, demands
from swarm.core.explain import Reason, misfit_reason
from swarm.core.liveness import condition, workers_of
from swarm.core.loads import known_models, outstanding
from swarm.core.placement import Want, desired
from swarm.core.snapshot import SwarmSnapshot, WorkerView
from swarm.core.task import canonical_model
from swarm.settings import Settings


def models_to_explain(snapshot: SwarmSnapshot, settings: Settings) -> frozenset[str]:
    """Every model that something is known of: waiting, running, loaded before, or configured."""
    return known_models(snapshot) | {canonical_model(name) for name in settings.models}


def explain_model(
    model: str, snapshot: SwarmSnapshot, settings: Settings, *, installed_on: Sequence[str] | None = None
) -> list[Reason]:
    """What waits for a canonical model name, who has it on disk (None: nobody was asked), then each worker's part in it."""
    demand = demands(snapshot).get(model)
    reasons = [_demand(model, demand)]
    if installed_on is not None and not installed_on:
        reasons.append(Reason("not_installed", f"No server that answers has {model}.", f"swarm models pull {model}"))
    views = workers_of(snapshot)
    if not views:
        return [*reasons, Reason("no_worker", "No worker is registered.", "swarm up")]
    wants = desired(snapshot, settings)
    return [*reasons, *(_on(view, model, demand, wants.get(view.name), snapshot, settings) for view in views)]


def _demand(model: str, demand: Demand | None) -> Reason:
    if demand is None:
        return Reason("no_demand", f"No task waits for {model}, and none runs on it.", "swarm submit")
    text = (
        f"{demand.waiting} tasks wait for {model} and {demand.running} run: about {demand.work_s:.0f}s of one slot "
        f"({demand.task_s:.2g}s a task); a load takes about {demand.load_s:.2g}s"
    )
    if demand.unserved_s > 1 and demand.waiting:
        text += f"; nobody has served it for {demand.unserved_s:.0f}s"
    return Reason("demand", f"{text}.", "swarm queue stats")


def _on(
    view: WorkerView, model: str, demand: Demand | None, want: Want | None, snapshot: SwarmSnapshot, settings: Settings
) -> Reason:
    """One worker's part: it holds the model, loads it, is to load it, cannot, or has better to do."""
    name = view.name
    holds = view.heartbeat.model if view.alive and view.heartbeat is not None else None
    if any(task.model == model for task in outstanding(snapshot).get(name, ())):
        return Reason("loading", f"{name} is loading it, or about to.", f"swarm explain {name}")
    if holds == model:
        why = f": {want.reason}" if want is not None else ""
        return Reason("loaded", f"{name} holds it{why}.", f"swarm explain {name}")
    verdict = condition(view, snapshot, settings)
    if want is None:
        return Reason(verdict.state, f"Not on {name}: {verdict.text}.", f"swarm explain {name}")
    why_not = misfit_reason(view, demand, snapshot, settings, before=f"Not on {name}: ") if demand is not None else None
    if why_not is not None:
        return why_not
    if want.model == model:
        text = f"{name} is to load it at the brain's next turn: {want.reason}."
        return Reason("load_due", text, "swarm logs brain -n 20")
    held = "it holds nothing; " if holds is None else "" if holds in want.reason else f"it holds {holds}; "
    return Reason("elsewhere", f"Not on {name}: {held}{want.reason}.", f"swarm explain {name}")
