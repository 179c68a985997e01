"""Explains what live requests for a model wait for, with the functions that decide. Also for those who refuse one."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from swarm.config.settings import Settings
from swarm.core.explain.reason import Reason
from swarm.core.explain.tasks import NO_BRAIN, misfit_reason, not_ready
from swarm.core.health.liveness import condition, workers_of
from swarm.core.live.demand import KEPT_S
from swarm.core.placement.demand import demands, no_demand, outstanding
from swarm.core.placement.fit import nowhere, what_helps
from swarm.core.placement.placement import desired, live_take_in_s
from swarm.core.snapshot import LiveView, SwarmSnapshot, WorkerView


def live_words(number: int) -> str:
    """``1 live request``, ``3 live requests``."""
    return f"{number} live request{'' if number == 1 else 's'}"


def live_use(view: LiveView) -> Reason:
    """What clients want of a model."""
    if not view.waiting and not view.in_flight:
        text = f"Live requests used {view.model} in the last {KEPT_S:.0f}s: batch work does not take its last card yet."
        return Reason("live_kept", text, "swarm workers")
    text = f"{live_words(view.in_flight)} for {view.model} under way, {view.waiting} waiting"
    return Reason("live", text + (f", the oldest for {view.oldest_s:.1f}s." if view.waiting else "."), "swarm status")


def live_turn(view: WorkerView, in_s: float) -> Reason:
    """Why a worker's card is not given to live requests for another model yet."""
    holds = view.heartbeat.model if view.heartbeat is not None else None
    text = f"{view.name} keeps {holds} for up to {in_s:.0f}s more: cards do not change models all the time."
    return Reason("live_turn", text, f"swarm explain {view.name}")


def live_obstacles(model: str, snapshot: SwarmSnapshot, settings: Settings, *, brain_alive: bool = True) -> list[Reason]:
    """Why a live request for this model (canonical name) is not begun now, the most telling reason first.

    Empty: a worker has a place for it, as far as its last heartbeat tells.
    """
    pause = snapshot.pauses.model(model)
    if pause is not None:
        return [Reason("paused", f"{model} is not loaded for live requests, because {pause.words}.", pause.way_out)]
    workers = workers_of(snapshot)
    verdicts = {view.name: condition(view, snapshot, settings) for view in workers}
    ready = [view for view in workers if verdicts[view.name].state == "ready"]
    if not ready:
        others = [not_ready(view, verdicts[view.name]) for view in workers]
        return [Reason("no_llm_worker", "No worker is ready for live requests.", "swarm workers"), *others]
    holders = [view for view in ready if view.heartbeat is not None and view.heartbeat.model == model]
    if holders:
        return _taken(model, holders)
    loading = [view for view in ready if any(t.model == model for t in outstanding(snapshot).get(view.name, ()))]
    if loading:
        return [Reason("loading", f"{v.name} is loading {model}, or about to.", f"swarm explain {v.name}") for v in loading]
    reasons = list(_on_no_card(model, ready, snapshot, settings))
    held_up = (not_ready(view, verdicts[view.name]) for view in workers if view not in ready)
    if not brain_alive and any(reason.code == "load_due" for reason in reasons):
        reasons.insert(0, NO_BRAIN)
    return [*reasons, *(reason for reason in held_up if reason.code != "stopped")]


def _taken(model: str, holders: list[WorkerView]) -> list[Reason]:
    """All places of the model, unless one of them is free."""
    places = [view.heartbeat.live for view in holders if view.heartbeat is not None and view.heartbeat.live is not None]
    if any(one.in_flight < one.limit for one in places):
        return []
    names, limit = ", ".join(view.name for view in holders), sum(one.limit for one in places)
    has = f"its places for live requests ({limit}) are taken" if limit else "it takes no live requests now"
    return [Reason("live_busy", f"{model} is loaded on {names}; {has}.", "swarm workers")]


def _on_no_card(model: str, ready: list[WorkerView], snapshot: SwarmSnapshot, settings: Settings) -> Iterator[Reason]:
    """Why no worker loads it: worker by worker."""
    never = nowhere(model, snapshot, settings)
    if never is not None:
        yield Reason("fits_nowhere", f"{never}.", what_helps(model))
    if not any(view.model == model and view.waiting for view in snapshot.live):
        asking = LiveView(model=model, waiting=1)
        others = tuple(view for view in snapshot.live if view.model != model)
        snapshot = msgspec.structs.replace(snapshot, live=(*others, asking))
    demand = demands(snapshot).get(model) or no_demand(model, snapshot)
    wants, in_s = desired(snapshot, settings), live_take_in_s(model, snapshot, settings)
    for view in ready:
        misfit, want = misfit_reason(view, demand, snapshot, settings), wants[view.name]
        if misfit is not None:
            yield misfit
        elif want.model == model:
            text = f"{view.name} will load it at the brain's next tick: {want.reason}."
            yield Reason("load_due", text, "swarm logs brain -n 20")
        elif view.name in in_s:
            yield live_turn(view, in_s[view.name])
        else:
            yield Reason("elsewhere", f"{view.name}: {want.reason}.", f"swarm explain {view.name}")
