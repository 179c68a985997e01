"""Alarms for the operator: each condition once, under a stable key, until it clears."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from swarm.config.settings import Settings
from swarm.core.health.liveness import Condition, condition, workers_of
from swarm.core.placement.demand import Demand, demands, outstanding
from swarm.core.placement.fit import card_memory_mib, failing, has_no_room, too_few_cards, what_helps
from swarm.core.placement.node_models import absent
from swarm.core.policy.decisions import Warn
from swarm.core.snapshot import LaneView, SwarmSnapshot, WorkerView
from swarm.core.task import TaskClass

CLEARED_MANY = 3
CLEARED_SHARE = 10
"""Fewer than one in so many of what a worker completes is no more than bad luck."""


def supervisor_gone(processes: int) -> str:
    """The supervisor died unexpectedly while so many of its processes live."""
    run_on, them = ("1 process runs on", "it") if processes == 1 else (f"{processes} processes run on", "them")
    return f"supervisor is not running; {run_on}; `swarm up` adopts {them}, `swarm down` ends {them}"


class _Picture(NamedTuple):
    """A snapshot with what follows from it."""

    snapshot: SwarmSnapshot
    settings: Settings
    workers: tuple[WorkerView, ...]
    conditions: dict[str, Condition]
    """By worker."""
    waiting: dict[str, Demand]
    """Of each model for which something waits."""

    @property
    def ready(self) -> list[WorkerView]:
        """Workers that take llm work."""
        return [view for view in self.workers if self.conditions[view.name].state == "ready"]


def alarms(snapshot: SwarmSnapshot, settings: Settings) -> tuple[Warn, ...]:
    """Every alarm that stands now."""
    workers = workers_of(snapshot)
    conditions = {view.name: condition(view, snapshot, settings) for view in workers}
    waiting = {model: demand for model, demand in demands(snapshot).items() if demand.waiting}
    picture = _Picture(snapshot, settings, workers, conditions, waiting)
    return (
        *_paused(snapshot),
        *_silent_workers(picture),
        *_stale_loads(picture),
        *_failing_loads(picture),
        *_missing_models(picture),
        *_broken_under_load(picture),
        *_no_worker(picture),
        *_no_llm_worker(picture),
        *_fits_nowhere(picture),
        *_live_waits(picture),
    )


def _paused(snapshot: SwarmSnapshot) -> Iterator[Warn]:
    for pause in snapshot.pauses.pauses:
        yield Warn(key=f"paused:{pause.key}", reason=f"{pause.words}; `{pause.way_out}` ends that")


def _silent_workers(picture: _Picture) -> Iterator[Warn]:
    """Living workers whose heartbeat or work loop stands still, or that refuse llm work.

    Another machine of which no worker is usable is one alarm.
    """
    silent = dict(_silent_nodes(picture))
    for node, views in silent.items():
        whys = [view.heartbeat.reason for view in views if view.heartbeat is not None and view.heartbeat.reason]
        what = f"none of the {len(views)} workers of node {node} takes llm work"
        yield Warn(key=f"node-unready:{node}", reason=f"{what}: {whys[0] if whys else 'nobody says why'}")
    told = {view.name for views in silent.values() for view in views}
    for view in picture.workers:
        if view.name in told:
            continue
        verdict = picture.conditions[view.name]
        if verdict.state in ("stale", "hung"):
            yield Warn(key=f"heartbeat:{view.name}", reason=verdict.text)
        elif verdict.state in ("unready", "card_lost"):
            yield Warn(key=f"{verdict.state}:{view.name}", reason=verdict.text)


def _silent_nodes(picture: _Picture) -> Iterator[tuple[str, list[WorkerView]]]:
    """Other machines with several living workers, all of them unready."""
    for node in sorted({view.node for view in picture.workers} - {""}):
        views = [view for view in picture.workers if view.alive and view.node == node]
        if len(views) > 1 and all(picture.conditions[view.name].state == "unready" for view in views):
            yield node, views


def _stale_loads(picture: _Picture) -> Iterator[Warn]:
    """Load tasks that nobody claims although their worker lives and is cold."""
    limit_s = picture.settings.brain.load_warn_s
    if not limit_s:
        return
    waits: dict[str, float] = {}
    for name, tasks in outstanding(picture.snapshot).items():
        view = picture.snapshot.worker(name)
        cold = view is not None and view.alive and (view.heartbeat is None or view.heartbeat.model is None)
        oldest_s = max((t.wait_s for t in tasks if t.where == "pending"), default=0.0)
        if cold and oldest_s > limit_s:
            waits[name] = oldest_s
    if waits:
        names = sorted(waits)
        text = f"load_llm task available for {max(waits.values()):.0f}s but workers {names} still have no model"
        yield Warn(key=f"load-stale:{','.join(names)}", reason=text)


def _failing_loads(picture: _Picture) -> Iterator[Warn]:
    """Alarms of models that are waited for. What has no room, or is nowhere, is reported once, not per worker."""
    for view in picture.workers:
        models = view.heartbeat.models if view.alive and view.heartbeat is not None else {}
        for model in sorted(picture.waiting.keys() & models.keys()):
            text = failing(view, model, picture.settings)
            if text is not None and not models[model].no_room and not models[model].missing:
                yield Warn(key=f"load-failed:{view.name}:{model}", reason=text)


def _missing_models(picture: _Picture) -> Iterator[Warn]:
    """Models that are waited for and that no worker's server had when it was to load them."""
    ready = picture.ready
    for model, demand in picture.waiting.items():
        if ready and all(_is_missing(view, model) for view in ready):
            reason = f"{demand.waiting} tasks wait for {model}, which no server has"
            yield Warn(key=f"model-missing:{model}", reason=reason)


def _is_missing(view: WorkerView, model: str) -> bool:
    tally = view.heartbeat.models.get(model) if view.heartbeat is not None else None
    return tally is not None and tally.missing


def _broken_under_load(picture: _Picture) -> Iterator[Warn]:
    """Servers that pass every probe, and break at requests which others answer."""
    workers = picture.workers
    for view in workers:
        cleared = sum(w.heartbeat.cleared.get(view.name, 0) for w in workers if w is not view and w.heartbeat is not None)
        done = view.heartbeat.tally.completed if view.heartbeat is not None else 0
        if cleared >= CLEARED_MANY and cleared * CLEARED_SHARE > done:
            text = f"{cleared} requests that broke the server of {view.name} succeeded elsewhere: it may break under load"
            yield Warn(key=f"broken-under-load:{view.name}", reason=text)


def _no_worker(picture: _Picture) -> Iterator[Warn]:
    lanes = picture.snapshot.lanes
    waiting = sum(lane.pending for lane in lanes)
    if waiting and not _is_patient(lanes, picture.settings) and not any(view.alive for view in picture.workers):
        reason = f"Tasks waiting ({waiting}) but no worker is running - start them with `swarm up`"
        yield Warn(key="no-worker", reason=reason)


def _is_patient(lanes: Sequence[LaneView], settings: Settings) -> bool:
    """Whether nothing has waited there for long with nobody to serve it."""
    return max((lane.unserved_s for lane in lanes), default=0.0) < settings.worker.heartbeat_stale_s


def _no_llm_worker(picture: _Picture) -> Iterator[Warn]:
    """Workers live, yet none of them could ever serve a model."""
    llm = [lane for lane in picture.snapshot.lanes if lane.task_class is TaskClass.LLM and lane.pending]
    alive = [view for view in picture.workers if view.alive]
    if _is_patient(llm, picture.settings) or not alive or any(w.row is not None and w.row.url is not None for w in alive):
        return
    waiting = sum(lane.pending for lane in llm)
    text = f"LLM tasks waiting ({waiting}) but none of the workers {[w.name for w in alive]} has a model server"
    yield Warn(key="no-llm-worker", reason=text)


def _live_waits(picture: _Picture) -> Iterator[Warn]:
    """Clients that will soon be refused, or are being refused already: their model has no card, or too few places."""
    limit_s = picture.settings.live.max_wait_s
    for view in sorted(picture.snapshot.live, key=lambda view: view.model):
        if view.waiting and view.oldest_s > limit_s / 2:
            waits = f"live requests ({view.waiting}) wait for {view.model}, the oldest for {view.oldest_s:.0f}s"
            yield Warn(key=f"live-waits:{view.model}", reason=f"{waits}; at {limit_s:.0f}s they are refused")


def _fits_nowhere(picture: _Picture) -> Iterator[Warn]:
    """A model with waiting tasks for which no ready worker has cards enough, or room."""
    snapshot, settings, ready = picture.snapshot, picture.settings, picture.ready
    if not ready:
        return
    for model, demand in picture.waiting.items():
        there = [view for view in ready if absent(view, model, snapshot) is None]
        reasons = {w.name: too_few_cards(w, model, settings) or has_no_room(w, demand, snapshot, settings) for w in there}
        holds = any(w.heartbeat is not None and w.heartbeat.model == model for w in there)
        if there and not holds and all(reasons.values()):
            largest = max(there, key=lambda w: card_memory_mib(w, snapshot) or 0)
            text = f"{demand.waiting} tasks wait for {model}, which no worker can be given: {reasons[largest.name]}"
            if len(ready) > 1 and card_memory_mib(largest, snapshot) is not None:
                text += ", and no other has more" if there == ready else ", and the others' machines do not have it"
            yield Warn(key=f"fits-nowhere:{model}", reason=f"{text}; {what_helps(model)}")
