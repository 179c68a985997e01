"""Explains why a model is on certain cards and not on others.

Calls the functions that place it, and phrases their answers for the operator.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from swarm.config.settings import Settings
from swarm.core.explain.live import live_obstacles, live_turn, live_use
from swarm.core.explain.nodes import titled
from swarm.core.explain.reason import Reason
from swarm.core.explain.tasks import misfit_reason
from swarm.core.health.liveness import condition, workers_of
from swarm.core.placement.demand import Demand, demands, no_demand, outstanding
from swarm.core.placement.fit import nowhere, what_helps
from swarm.core.placement.placement import Want, desired, live_take_in_s
from swarm.core.policy.decide import obstacle
from swarm.core.snapshot import SwarmSnapshot, WorkerView
from swarm.core.task import canonical_model


def models_to_explain(snapshot: SwarmSnapshot, settings: Settings) -> frozenset[str]:
    """Every model that something is known of: waiting, running, wanted by live requests, loaded before, or configured."""
    models = {canonical_model(name) for name in settings.models}
    seen = (snapshot.lanes, snapshot.claims, snapshot.blocked, snapshot.live)
    models |= {view.model for views in seen for view in views if view.model}
    for worker in snapshot.workers:
        if worker.heartbeat is not None:
            models |= {*worker.heartbeat.models, *([worker.heartbeat.model] if worker.heartbeat.model else [])}
    return frozenset(models)


def explain_model(
    model: str, snapshot: SwarmSnapshot, settings: Settings, *, installed_on: Sequence[str] | None = None
) -> list[Reason]:
    """What waits for a canonical model name, who has it on disk (None: nobody was asked), then each worker's part in it."""
    demand = demands(snapshot).get(model)
    live = list(_live(model, snapshot, settings))
    reasons = [*live, *_paused(model, snapshot, live=bool(live)), *_held_back(model, snapshot)]
    if demand is not None or not reasons:
        reasons = [_demand(model, demand), *reasons]
    if demand is None and live:
        demand = no_demand(model, snapshot)
    never = nowhere(model, snapshot, settings)
    if never is not None:
        reasons.append(Reason("fits_nowhere", f"{never}.", what_helps(model)))
    if installed_on is not None and not installed_on:
        reasons.append(Reason("not_installed", f"No server that answers has {model}.", f"swarm models pull {model}"))
    views = workers_of(snapshot)
    if not views:
        return [*reasons, Reason("no_worker", "No worker is registered.", "swarm up")]
    wants = desired(snapshot, settings)
    return [*reasons, *(_on(view, model, demand, wants.get(view.name), snapshot, settings) for view in views)]


def _live(model: str, snapshot: SwarmSnapshot, settings: Settings) -> Iterator[Reason]:
    """What clients want of it, and what keeps them waiting; each worker's part is told below."""
    view = next((view for view in snapshot.live if view.model == model and view.keeps), None)
    if view is not None:
        yield live_use(view)
        obstacles = live_obstacles(model, snapshot, settings) if view.waiting else ()
        yield from (reason for reason in obstacles if reason.code in ("paused", "live_busy"))


def _paused(model: str, snapshot: SwarmSnapshot, *, live: bool) -> Iterator[Reason]:
    """What waits in its lane, and is not to be begun. What of it is under way goes on. ``live``: clients are told of."""
    pause = snapshot.pauses.model(model)
    waiting = snapshot.llm_pending().get(model, 0)
    if pause is not None and (waiting or not live):
        yield Reason(
            "paused", f"{waiting} tasks wait for {model} and are not started, because {pause.words}.", pause.way_out
        )


def _held_back(model: str, snapshot: SwarmSnapshot) -> Iterator[Reason]:
    """What is blocked, each by its first obstacle."""
    blocked = [view for view in snapshot.blocked if view.model == model]
    found = Counter(obstacle(view) for view in blocked)
    look = f"swarm queue list blocked --model {model}"
    batches = Counter(view.batch_paused for view in blocked if obstacle(view) == "pause")
    for batch_id, number in batches.items():
        text = f"{number} more tasks for {model} are held back, because batch {batch_id} is paused."
        yield Reason("paused", text, f"swarm queue resume --batch {batch_id}")
    if found["time"]:
        first_s = min(view.due_in_s or 0.0 for view in blocked if obstacle(view) == "time")
        text = f"{found['time']} more tasks for {model} wait until their time comes, the first in {first_s:.0f}s."
        yield Reason("delayed", text, look)
    if found["task"]:
        yield Reason("blocked", f"{found['task']} more tasks for {model} wait for other tasks to complete.", look)
    if found["session"]:
        text = f"{found['session']} more tasks for {model} wait for earlier ones of their sessions to end."
        yield Reason("blocked", text, look)
    if found["brain"]:
        text = f"{found['brain']} more tasks for {model} are due, or are to fail, at the brain's next tick."
        yield Reason("due", text, "swarm logs brain -n 20")


def _demand(model: str, demand: Demand | None) -> Reason:
    if demand is None:
        return Reason("no_demand", f"No task waits for {model}, and none runs on it.", "swarm submit --help")
    text = (
        f"{demand.waiting} tasks wait for {model} and {demand.running} run: about {demand.work_s:.0f}s of one slot "
        f"({demand.task_s:.2g}s a task); a load takes about {demand.load_s:.2g}s"
    )
    if demand.unserved_s > 1 and demand.waiting:
        text += f"; no card has served it for {demand.unserved_s:.0f}s"
    return Reason("demand", f"{text}.", "swarm queue stats")


def _on(
    view: WorkerView, model: str, demand: Demand | None, want: Want | None, snapshot: SwarmSnapshot, settings: Settings
) -> Reason:
    """One worker's part: it holds the model, loads it, will load it, cannot, or has better to do."""
    name, who = view.name, titled(view.name, snapshot)
    holds = view.heartbeat.model if view.alive and view.heartbeat is not None else None
    if any(task.model == model for task in outstanding(snapshot).get(name, ())):
        return Reason("loading", f"{who} is loading it, or about to.", f"swarm explain {name}")
    if want is None:
        verdict = condition(view, snapshot, settings)
        begin = f"{who} holds it, but that serves nobody" if holds == model else f"Not on {who}"
        return Reason(verdict.state, f"{begin}: {verdict.text}.", f"swarm explain {name}")
    if holds == model:
        return Reason("loaded", f"{who} holds it: {want.reason}.", f"swarm explain {name}")
    why_not = misfit_reason(view, demand, snapshot, settings, before=f"Not on {who}: ") if demand is not None else None
    if why_not is not None:
        return why_not
    if want.model == model:
        text = f"{who} will load it at the brain's next tick: {want.reason}."
        return Reason("load_due", text, "swarm logs brain -n 20")
    in_s = live_take_in_s(model, snapshot, settings).get(name)
    held = "it holds nothing; " if holds is None else "" if holds in want.reason else f"it holds {holds}; "
    elsewhere = Reason("elsewhere", f"Not on {who}: {held}{want.reason}.", f"swarm explain {name}")
    return live_turn(view, in_s) if in_s else elsewhere
