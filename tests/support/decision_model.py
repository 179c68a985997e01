"""A small model of what applying decisions does to a snapshot, for properties over ``decide``."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from swarm.core.lanes import resource_lane
from swarm.core.policy.decisions import (
    Decision,
    FailBlocked,
    FileDropIn,
    KillWorker,
    LoadModel,
    RecoverWorker,
    ReleaseTask,
    Warn,
    WithdrawResource,
)
from swarm.core.snapshot import LaneView, ResourceTask, SwarmSnapshot
from swarm.core.task import TaskClass

replace = msgspec.structs.replace


def after(snapshot: SwarmSnapshot, decisions: Iterable[Decision]) -> SwarmSnapshot:
    """The picture once these decisions have been applied and nothing else has happened."""
    for decision in decisions:
        snapshot = _one(snapshot, decision)
    return snapshot


def _one(snapshot: SwarmSnapshot, decision: Decision) -> SwarmSnapshot:
    changed = snapshot
    match decision:
        case FileDropIn():
            changed = replace(snapshot, drop_ins=tuple(d for d in snapshot.drop_ins if d.file_name != decision.file_name))
        case ReleaseTask() | FailBlocked():
            changed = replace(snapshot, blocked=tuple(b for b in snapshot.blocked if b.task_id != decision.task_id))
        case RecoverWorker():
            changed = _recovered(snapshot, decision.worker)
        case KillWorker():
            workers = tuple(replace(w, alive=False) if w.name == decision.worker else w for w in snapshot.workers)
            changed = replace(snapshot, workers=workers)
        case LoadModel():
            if decision.instead_of is not None:
                changed = _without_resource(snapshot, decision.worker, decision.instead_of)
            load = ResourceTask(
                task_id=decision.task_id,
                worker=decision.worker,
                model=decision.model,
                epoch=decision.epoch,
                live=decision.live,
            )
            changed = _with_waiting(changed, load)
        case WithdrawResource():
            changed = _without_resource(snapshot, decision.worker, decision.task_id)
        case Warn():
            pass
    return changed


def _recovered(snapshot: SwarmSnapshot, worker: str) -> SwarmSnapshot:
    """Claims go back to their lanes."""
    for claim in snapshot.claims:
        if claim.worker == worker and claim.task_class == TaskClass.RESOURCE:
            view = snapshot.worker(worker)
            epoch = view.row.epoch if view is not None and view.row is not None else None
            load = ResourceTask(task_id=claim.task_id, worker=worker, model=claim.model, epoch=epoch)
            snapshot = _with_waiting(snapshot, load)
        elif claim.worker == worker and claim.model is not None:
            snapshot = _one_more(snapshot, claim.model)
    return replace(
        snapshot,
        claims=tuple(c for c in snapshot.claims if c.worker != worker),
        workers=tuple(replace(w, claims=0) if w.name == worker else w for w in snapshot.workers),
    )


def _one_more(snapshot: SwarmSnapshot, model: str) -> SwarmSnapshot:
    if any(lane.model == model for lane in snapshot.lanes):
        lanes = tuple(replace(lane, pending=lane.pending + (lane.model == model)) for lane in snapshot.lanes)
    else:
        lanes = (*snapshot.lanes, LaneView(lane=f"llm@{model}", task_class=TaskClass.LLM, model=model, pending=1))
    return replace(snapshot, lanes=lanes)


def _with_waiting(snapshot: SwarmSnapshot, load: ResourceTask) -> SwarmSnapshot:
    lane = LaneView(
        lane=resource_lane(load.worker),
        task_class=TaskClass.RESOURCE,
        target_worker=load.worker,
        pending=1,
        resource_tasks=(load,),
    )
    return replace(snapshot, lanes=(*snapshot.lanes, lane))


def _without_resource(snapshot: SwarmSnapshot, worker: str, task_id: str) -> SwarmSnapshot:
    lanes: list[LaneView] = []
    snapshot = replace(snapshot, blocked=tuple(b for b in snapshot.blocked if b.task_id != task_id))
    for lane in snapshot.lanes:
        if lane.target_worker == worker and any(task.task_id == task_id for task in lane.resource_tasks):
            left = tuple(task for task in lane.resource_tasks if task.task_id != task_id)
            if left:
                lanes.append(replace(lane, resource_tasks=left, pending=len(left)))
        else:
            lanes.append(lane)
    return replace(snapshot, lanes=tuple(lanes))
