"""Explains why a task does not run, or why a worker idles.

Calls the functions that decide, and phrases their answers for the operator.
"""

from __future__ import annotations

from collections.abc import Sequence

from swarm.config.settings import Settings
from swarm.core.explain.nodes import node_troubles, titled, where
from swarm.core.explain.reason import Reason
from swarm.core.health.liveness import Condition, condition, stuck, workers_of
from swarm.core.models.engines import OLLAMA
from swarm.core.nodes.node_record import NodeRecord
from swarm.core.placement.demand import Demand, Outstanding, demands, outstanding
from swarm.core.placement.fit import does_not_fit, misfit, nowhere, spilled, what_helps
from swarm.core.placement.node_models import absent, how_to_get
from swarm.core.placement.placement import desired
from swarm.core.policy.decide import waits_for
from swarm.core.policy.retry import blamed_at, runs_alone
from swarm.core.policy.slot_capacity import ONE_AT_A_TIME
from swarm.core.snapshot import ClaimView, LaneView, SwarmSnapshot, WorkerView
from swarm.core.task import Attempt, Task, TaskClass, TaskState, Trail, canonical_model

NO_BRAIN = Reason("no_brain", "No brain is running: no task is released, loaded or requeued.", "swarm up")
_NEEDS_BRAIN = frozenset({"dead", "load_due", "cold", "load_retry"})
_CLAIMS_NOTHING = frozenset({"dead", "stopped", "silent", "stale", "hung", "draining", "paused"})
"""Conditions in which a worker takes no programs either."""


def explain_task(
    task: Task,
    state: TaskState,
    snapshot: SwarmSnapshot,
    settings: Settings,
    *,
    trail: Trail | None = None,
    brain_alive: bool = True,
) -> list[Reason]:
    """Why a task is where it is, the most telling reason first.

    ``trail`` is what its file says happened to it.
    """
    reasons: list[Reason] = []
    match state:
        case TaskState.PENDING:
            reasons = _pending(task, snapshot, settings)
            if trail is not None and trail.attempts and trail.attempts[-1].fault in ("poison", "suspect"):
                reasons += _retrying(task, trail.attempts)
        case TaskState.BLOCKED:
            reasons = _blocked(task, snapshot, trail)
        case TaskState.PROCESSING:
            reasons = _processing(task, snapshot, settings)
        case TaskState.COMPLETED:
            reasons = [Reason("completed", "It completed.", f"swarm queue show {task.task_id}")]
        case TaskState.FAILED:
            why = trail.error.message if trail is not None and trail.error is not None else "no error is recorded"
            reasons = [Reason("failed", f"It failed for good: {why}", f"swarm queue retry {task.task_id}")]
        case TaskState.CANCELLED:
            why = f": {trail.error.message}" if trail is not None and trail.error is not None else ""
            reasons = [Reason("cancelled", f"It was cancelled{why}.", f"swarm queue retry {task.task_id}")]
        case TaskState.CORRUPT:
            reasons = [
                Reason("corrupt", "Its file is no valid task; the reason is beside it in corrupt/.", "swarm queue fsck")
            ]
    waits_on_brain = state is TaskState.BLOCKED or (state is TaskState.PENDING and task.task_class is TaskClass.LLM)
    waits_on_brain = waits_on_brain or any(reason.code == "owner_dead" for reason in reasons)
    return reasons if brain_alive or not waits_on_brain else [NO_BRAIN, *reasons]


def explain_worker(
    view: WorkerView,
    snapshot: SwarmSnapshot,
    settings: Settings,
    *,
    brain_alive: bool = True,
    node: NodeRecord | None = None,
) -> list[Reason]:
    """Why a worker does not work, or on what it does. ``node``: the record of its machine, where its card is in another."""
    reasons = _worker_reasons(view, snapshot, settings)
    needed = any(reason.code in _NEEDS_BRAIN for reason in reasons)
    reasons = [*node_troubles(view, node), *reasons, *_live(view), *_slots(view), *where(view)]
    return [NO_BRAIN, *reasons] if needed and not brain_alive else reasons


def _live(view: WorkerView) -> list[Reason]:
    """What live requests take of a worker's slots; nothing while none do."""
    places = view.heartbeat.live if view.alive and view.heartbeat is not None else None
    if places is None or not (places.in_flight or places.kept):
        return []
    text = f"{view.name} runs live requests ({places.in_flight} of at most {places.limit}), which go before its batch work"
    text += f", and keeps places free for the next ones ({places.kept})" if places.kept else ""
    gave = f"; {places.yielded} batch requests have given way to such, no attempt used" if places.yielded else ""
    return [Reason("live", f"{text}{gave}.", "swarm workers")]


def _slots(view: WorkerView) -> list[Reason]:
    """How many requests run at once for the model it holds, and why not more."""
    beat = view.heartbeat if view.alive else None
    tuned = beat.tuned.get(beat.model) if beat is not None and beat.model is not None else None
    if beat is None or tuned is None or not tuned.why:
        return []
    text = f"{beat.model}: {tuned.why}."
    if tuned.engine == OLLAMA and tuned.capacity == 1 and ONE_AT_A_TIME in tuned.why:
        text += f' llama-server, where it is installed, runs more: [models."{beat.model}"] engine = "llama-server".'
    return [Reason("slots", text, "swarm models")]


def _worker_reasons(view: WorkerView, snapshot: SwarmSnapshot, settings: Settings) -> list[Reason]:
    verdict = condition(view, snapshot, settings)
    if verdict.state not in ("ready", "no_server"):
        return [not_ready(view, verdict)]
    claims = [c for c in snapshot.claims if c.worker == view.name]
    reasons = [_load_reason(view, task) for task in outstanding(snapshot).get(view.name, ())]
    if claims:
        return [*(r for r in reasons if r.code == "loading"), *(_busy(c, snapshot, settings) for c in claims)]
    if verdict.state == "no_server":
        return [*reasons, Reason("no_server", f"{verdict.text}.", "swarm config check"), *_other_work(view, snapshot)]
    want = desired(snapshot, settings)[view.name]
    holds = view.heartbeat.model if view.heartbeat is not None else None
    if want.model != holds and not reasons:
        text = f"{view.name} should hold {want.model}: {want.reason}. The brain inserts the load at its next tick."
        reasons.append(Reason("load_due", text, "swarm logs brain -n 20"))
    elif holds is None and not reasons:
        reasons.append(Reason("cold", f"{view.name} has no model: {want.reason}.", "swarm queue stats"))
    elif not reasons:
        reasons.append(Reason("hot_idle", f"{view.name} holds {holds}: {want.reason}.", "swarm queue stats"))
    if holds is None and view.heartbeat is not None:
        for model in sorted({*view.heartbeat.refused, *view.heartbeat.models}):
            reasons += _spilled(view, model)
    return [*reasons, *_other_work(view, snapshot)]


def _pending(task: Task, snapshot: SwarmSnapshot, settings: Settings) -> list[Reason]:
    workers = workers_of(snapshot)
    pause = snapshot.pauses.model(task.model) or snapshot.pauses.batch(task.batch_id)
    if pause is not None:
        return [Reason("paused", f"It is not started, because {pause.words}.", pause.way_out)]
    if not any(w.alive for w in workers):
        return [Reason("no_worker", "No worker is running.", "swarm up")]
    if task.task_class is TaskClass.LLM:
        return _pending_llm(canonical_model(task.model or ""), snapshot, settings)
    if task.task_class is TaskClass.RESOURCE:
        return _pending_resource(task, snapshot, settings)
    return _pending_program(task, snapshot, settings)


def _pending_program(task: Task, snapshot: SwarmSnapshot, settings: Settings) -> list[Reason]:
    workers = workers_of(snapshot)
    verdicts = {w.name: condition(w, snapshot, settings) for w in workers}
    able = [w for w in workers if verdicts[w.name].state not in _CLAIMS_NOTHING]
    if not able:
        return [not_ready(w, verdicts[w.name]) for w in workers if w.alive]
    free = [w.name for w in able if not any(c.worker == w.name for c in snapshot.claims)]
    if free:
        return [Reason("soon", f"{free[0]} is free and will claim it.", f"swarm logs --task {task.task_id}")]
    return [Reason("slots_busy", "Every worker that takes work is busy.", "swarm queue active")]


def _pending_resource(task: Task, snapshot: SwarmSnapshot, settings: Settings) -> list[Reason]:
    name = task.target_worker or ""
    view = snapshot.worker(name)
    if view is None:
        return [Reason("no_such_worker", f"Its target {name} is not registered.", "swarm workers")]
    verdict = condition(view, snapshot, settings)
    if verdict.state != "ready":
        return [not_ready(view, verdict)]
    return [Reason("target_busy", f"Only {name} may claim it, and it has not done so yet.", f"swarm explain {name}")]


def _pending_llm(model: str, snapshot: SwarmSnapshot, settings: Settings) -> list[Reason]:
    verdicts = {w.name: condition(w, snapshot, settings) for w in workers_of(snapshot)}
    ready = [w for w in workers_of(snapshot) if verdicts[w.name].state == "ready"]
    if not ready:
        others = [not_ready(w, verdicts[w.name]) for w in workers_of(snapshot)]
        return [Reason("no_llm_worker", "No worker is ready for llm work.", "swarm workers"), *others]
    holders = [w for w in ready if w.heartbeat is not None and w.heartbeat.model == model]
    if holders:
        names = ", ".join(w.name for w in holders)
        busy = [Reason("slots_busy", f"{model} is loaded on {names}, whose slots are busy.", "swarm queue active")]
        return [*busy, *(reason for view in holders for reason in _live(view))]
    loads = [(w, t) for w in ready for t in outstanding(snapshot).get(w.name, ()) if t.model == model]
    if loads:
        return [_load_reason(view, task) for view, task in loads]
    never = nowhere(model, snapshot, settings)
    reasons = [] if never is None else [Reason("fits_nowhere", f"{never}.", what_helps(model))]
    text = f"No worker that takes llm work holds {model}, and none of them is loading it."
    reasons.append(Reason("not_loaded", text, "swarm workers"))
    idle = (w for w in workers_of(snapshot) if w.alive and w not in ready)
    reasons += [not_ready(w, verdicts[w.name]) for w in idle if w.heartbeat is not None and w.heartbeat.model == model]
    demand = demands(snapshot).get(model)
    for view in ready:
        reasons += _spilled(view, model)
        why_not = misfit_reason(view, demand, snapshot, settings) if demand is not None else None
        if why_not is not None:
            reasons.append(why_not)
    for name, want in desired(snapshot, settings).items():
        due = "; it will load it at the brain's next tick" if want.model == model else ""
        reasons.append(Reason("placement", f"{name}: {want.reason}{due}.", f"swarm explain {name}"))
    return reasons


def _spilled(view: WorkerView, model: str) -> list[Reason]:
    words = spilled(view, model)
    return [] if words is None else [Reason("spilled", f"{words}.", what_helps(model))]


def misfit_reason(
    view: WorkerView, demand: Demand, snapshot: SwarmSnapshot, settings: Settings, *, before: str = ""
) -> Reason | None:
    """Why this worker cannot be given this model; ``before`` begins the sentence."""
    why_not = misfit(view, demand, snapshot, settings)
    if why_not is None:
        return None
    if why_not == does_not_fit(view, demand, snapshot, settings):
        return Reason("does_not_fit", f"{before}{why_not}.", what_helps(demand.model))
    if why_not == absent(view, demand.model, snapshot):
        return Reason("not_on_node", f"{before}{why_not}.", how_to_get(demand.model, view.node))
    return Reason("misfit", f"{before}{why_not}.", f"swarm logs {view.name}")


def _blocked(task: Task, snapshot: SwarmSnapshot, trail: Trail | None) -> list[Reason]:
    view = next((b for b in snapshot.blocked if b.task_id == task.task_id), None)
    if view is None:
        return [Reason("blocked", "It was blocked and has just been released.", f"swarm queue show {task.task_id}")]
    next_step = f"swarm explain {view.waiting_for[0]}" if view.waiting_for else f"swarm queue show {task.task_id}"
    reasons = [Reason("blocked", f"It {waits_for(view)}.".replace("It its", "Its"), next_step)]
    if trail is not None and trail.retry_at is not None and trail.attempts:
        reasons += _retrying(task, trail.attempts)
    return reasons


def _retrying(task: Task, attempts: Sequence[Attempt]) -> list[Reason]:
    """What the last attempt met, and how the next one will be made."""
    last = attempts[-1]
    if last.error is None:
        return []
    log = f"swarm logs --task {task.task_id}"
    alone = ", alone on its server" if runs_alone(attempts, last.attempt + 1) else ""
    said = f"({last.error.type}: {last.error.message})"
    match last.fault:
        case "poison":
            broke = ", ".join(blamed_at(attempts, last.attempt + 1))
            text = f"Its request broke the server of {broke} {said}; retried behind others{alone}, elsewhere if possible"
            return [Reason("poison", f"{text}.", log)]
        case "suspect":
            text = f"It is suspected of having broken the server of {last.worker} {said}; retried behind others{alone}"
            return [Reason("suspect", f"{text}.", log)]
        case _:
            return [
                Reason("retrying", f"Attempt {last.attempt} failed and is tried again{alone}: {last.error.message}", log)
            ]


def _processing(task: Task, snapshot: SwarmSnapshot, settings: Settings) -> list[Reason]:
    claim = next((c for c in snapshot.claims if c.task_id == task.task_id), None)
    if claim is None:
        return [Reason("moved", "Its state has just changed.", f"swarm queue show {task.task_id}")]
    view = snapshot.worker(claim.worker)
    verdict = condition(view, snapshot, settings) if view is not None else None
    if view is None or verdict is None or verdict.state in ("dead", "stopped"):
        return [
            Reason(
                "owner_dead",
                f"{titled(claim.worker, snapshot)} died holding it; the brain requeues it.",
                "swarm logs brain -n 20",
            )
        ]
    reasons = [_busy(claim, snapshot, settings)]
    if verdict.state in ("stale", "hung"):
        reasons.append(not_ready(view, verdict))
    return reasons


def _busy(claim: ClaimView, snapshot: SwarmSnapshot, settings: Settings) -> Reason:
    what = f"{claim.task_id}{f' ({claim.name})' if claim.name else ''}"
    who = titled(claim.worker, snapshot)
    if claim in stuck(snapshot, settings):
        text = f"{who} works on {what}, which has made no progress for {claim.quiet_s:.0f}s."
        return Reason("stuck", text, "swarm queue clear-stuck")
    text = f"{who} works on {what}, attempt {claim.attempt}."
    return Reason("running", text, f"swarm logs --task {claim.task_id}")


def _load_reason(view: WorkerView, task: Outstanding) -> Reason:
    model = task.model or "a model"
    match task.where:
        case "claimed":
            return Reason("loading", f"{view.name} is loading {model} ({task.task.task_id}).", f"swarm logs {view.name}")
        case "pending":
            text = f"{view.name} will load {model}: {task.task.task_id} waits until it is free."
            return Reason("load_waiting", text, f"swarm explain {view.name}")
        case "blocked":
            text = f"{view.name} could not load {model}; {task.task.task_id} is tried again after a pause."
            return Reason("load_retry", text, f"swarm logs {view.name}")


def not_ready(view: WorkerView, verdict: Condition) -> Reason:
    """Why a worker takes no llm work, and what to do about it."""
    log = f"swarm logs {view.name} -n 30"
    way_out = "swarm queue resume all" if "everything" in verdict.text else f"swarm queue resume --worker {view.name}"
    steps = {"dead": f"swarm doctor {view.name}", "stopped": "swarm up", "paused": way_out}
    steps |= dict.fromkeys(("draining", "starting", "silent"), log)
    end = "" if verdict.text.endswith("?") else "."
    return Reason(verdict.state, f"{verdict.text}{end}", steps.get(verdict.state, f"swarm doctor {view.name}"))


def _other_work(view: WorkerView, snapshot: SwarmSnapshot) -> list[Reason]:
    """Work that waits but is none of this worker's."""
    holds = view.heartbeat.model if view.heartbeat is not None else None
    waiting = [lane for lane in snapshot.lanes if lane.pending]
    if not waiting:
        return [Reason("queue_empty", "Nothing waits in the queue.", "swarm submit --help")]
    others = [lane for lane in waiting if not _may_claim(lane, view.name, holds)]
    if len(others) < len(waiting):
        return [Reason("soon", f"{view.name} has work waiting and will claim it.", f"swarm logs {view.name} -f")]
    listed = ", ".join(f"{lane.lane}: {lane.pending}" for lane in others)
    return [Reason("other_lanes", f"The waiting tasks are for other workers ({listed}).", "swarm models")]


def _may_claim(lane: LaneView, worker: str, holds: str | None) -> bool:
    match lane.task_class:
        case TaskClass.RESOURCE:
            return lane.target_worker == worker
        case TaskClass.LLM:
            return lane.model == holds
        case TaskClass.CPU | TaskClass.SCRIPT:
            return True
