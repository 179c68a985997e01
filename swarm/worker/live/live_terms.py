"""By which terms a worker lets live requests in, from how it is now."""

from __future__ import annotations

from time import monotonic

from swarm.core.live.live_request import Refusal
from swarm.core.task import TaskClass, canonical_model
from swarm.worker.attempt import Run
from swarm.worker.live.live_gate import LiveTerms
from swarm.worker.server_health import ServerHealth
from swarm.worker.slots import Slots

SHUT = Refusal("busy", "the worker is about to start what nothing may run beside", 0.1)
ALONE_AFTER_S = 2.0
"""A batch request that has to run alone waits at most so long for live requests to stop coming; so does a load for batch
work, once nothing else is in its way."""


def live_terms(
    model: str | None, places: tuple[int, int], slots: Slots, server: ServerHealth, paused: str, *, stopping: bool
) -> LiveTerms:
    """``places``: slots of the loaded ``model`` and the engine's room; ``paused``: by an operator, in words."""
    refusal = _refusal(server, paused, stopping=stopping)
    passing = None if refusal is not None else _passing(slots, server)
    return LiveTerms(model=model, slots=places[0], room=places[1], refusal=refusal, passing=passing)


def stands_in_the_way(run: Run) -> bool:
    """Whether a live request waits for this load: batch requests to other models give way to it."""
    task = run.claim.task
    return not run.begun and task.action == "load_llm" and task.metadata.get("live") is True


def _only_live_before(load: Run, slots: Slots) -> bool:
    """Whether a load waits for live requests alone, which would keep it waiting for ever if they went on coming."""
    others = (run for run in slots.runs if run is not load and run.uses_server and run.ending is None)
    return monotonic() - load.started_s > ALONE_AFTER_S and all(run.live for run in others)


def _refusal(server: ServerHealth, paused: str, *, stopping: bool) -> Refusal | None:
    if stopping:
        return Refusal("draining", "the worker is stopping")
    if paused:
        return Refusal("unready", paused, 5.0)
    if server.cards.reason or server.unready:
        return Refusal("unready", server.cards.reason or server.refusal(in_flight=False), 2.0)
    return None


def _passing(slots: Slots, server: ServerHealth) -> Refusal | None:
    for run in slots.runs:
        task = run.claim.task
        if task.task_class is TaskClass.RESOURCE and (run.begun or stands_in_the_way(run) or _only_live_before(run, slots)):
            model = canonical_model(task.model or "")
            return Refusal("model_not_loaded", f"{'loading' if task.action == 'load_llm' else 'unloading'} {model}")
        if run.alone and not run.own and not run.begun and monotonic() - run.started_s > ALONE_AFTER_S:
            return Refusal("busy", "a batch request that may run beside no other waits to begin")
    closed = server.closed(in_flight=any(run.uses_server for run in slots.runs))
    return Refusal("unready", closed, 0.5) if closed else None
