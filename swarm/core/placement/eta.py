"""Until when the llm work is done, by each card's own speed. Pure."""

from __future__ import annotations

from swarm.config.settings import Settings
from swarm.core.health.liveness import ready_workers
from swarm.core.placement.demand import demands
from swarm.core.placement.fit import misfit
from swarm.core.placement.speeds import eta_s, speeds
from swarm.core.snapshot import SwarmSnapshot


def work_eta_s(snapshot: SwarmSnapshot, settings: Settings) -> float | None:
    """Seconds until all llm tasks that wait and run now are done, loads left out.

    Placement gives every card work as long as there is some: so the models share the cards, and each takes the part that it
    would take on all of them. A model that only some cards may be given takes at least as long as those need for it. None
    where nothing is to be done, no card that is ready may be given one of the models, or none has run one of them yet.
    """
    learned = speeds(snapshot)
    ready = ready_workers(snapshot, settings)
    shared_s = longest_s = 0.0
    for demand in demands(snapshot).values():
        may = [v for v in ready if v.heartbeat and v.heartbeat.model == demand.model]
        may += [v for v in ready if v not in may and misfit(v, demand, snapshot, settings) is None]
        on_those_s = eta_s(demand.waiting, demand.running, (learned.per_s(v.name, demand.model) for v in may))
        on_all_s = eta_s(demand.waiting, demand.running, (learned.per_s(v.name, demand.model) for v in ready))
        if on_those_s is None or on_all_s is None or not learned.measured(demand.model):
            return None
        shared_s += on_all_s
        longest_s = max(longest_s, on_those_s)
    return max(shared_s, longest_s) or None
