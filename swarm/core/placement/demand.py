"""How much work waits per model, what was learned of it, and which loads are under way.

The id of a load names worker, model, the worker's life (epoch) and the number of resource tasks it has ended in it. A
restarted brain makes the same id for the same deficit, and the queue refuses it a second time. One for live requests has an
id of its own, so that it can take the place of one for batch work. The id is only a key: what a load is for, its document
says.
"""

from __future__ import annotations

import hashlib
import re
from typing import Any, Literal

import msgspec

from swarm.core.snapshot import ResourceTask, SwarmSnapshot
from swarm.core.task import RESOURCE_PRIORITY, Task, TaskClass, canonical_model
from swarm.core.worker import ModelTally

_EPOCH = "worker_epoch"
"""In the metadata: the life of the worker that the brain made the load for."""
_LIVE = "live"
"""In the metadata: clients wait for it. Its worker stops batch requests that are in its way."""
_ID_LENGTH = 64
_TAIL_LENGTH = len("-e999999-r9999999-live-99")
_HASH_LENGTH = 6
_LOAD_ID_RE = re.compile(r"load-.+-e\d+-r\d+(-live)?(-\d+)?")


class Outstanding(msgspec.Struct, frozen=True):
    """A resource task of a worker that has not ended."""

    task: ResourceTask
    where: Literal["pending", "claimed", "blocked"]
    wait_s: float = 0.0
    """Age of a pending one by the wall clock."""

    @property
    def model(self) -> str | None:
        """The model it will load."""
        return self.task.model

    @property
    def withdrawable(self) -> bool:
        """Whether the brain made it and no worker has started it."""
        return self.task.epoch is not None and self.where == "pending"


def model_slug(worker: str, model: str) -> str:
    """The model's part of a load id: readable, cut to what the worker's name leaves of 64 characters.

    Two models may share a slug (``a.b``, ``a-b``); the worst that follows is that one waits for the other's load to end.
    """
    room = max(_HASH_LENGTH, _ID_LENGTH - len(f"load-{worker}-") - _TAIL_LENGTH)
    slug = re.sub(r"[^a-z0-9]+", "-", model.lower()).strip("-")
    if len(slug) <= room:
        return slug
    digest = hashlib.sha256(model.encode()).hexdigest()[:_HASH_LENGTH]
    return f"{slug[: room - _HASH_LENGTH - 1]}-{digest}" if room > _HASH_LENGTH + 1 else digest


def load_id(worker: str, model: str, *, epoch: int, resource_seq: int, live: bool = False) -> str:
    """Id of the load task for this deficit; a legal task id for every legal worker and model name."""
    key = f"load-{worker}-{model_slug(worker, model)}-e{epoch % 10**5}-r{resource_seq % 10**6}"
    return f"{key}-live" if live else key


def load_document(worker: str, model: str, epoch: int, *, live: bool = False) -> dict[str, Any]:
    """A load task of the brain's, but for its id."""
    return {
        "task_class": str(TaskClass.RESOURCE),
        "action": "load_llm",
        "name": f"load {model} on {worker}",
        "target_worker": worker,
        "model": model,
        "priority": RESOURCE_PRIORITY,
        "metadata": {_EPOCH: epoch} | ({_LIVE: True} if live else {}),
    }


def resource_task(task: Task) -> ResourceTask | None:
    """A load or unload as its document describes it; None for any other task."""
    if task.task_class is not TaskClass.RESOURCE:
        return None
    epoch = task.metadata.get(_EPOCH)
    return ResourceTask(
        task_id=task.task_id,
        worker=task.target_worker or "",
        model=canonical_model(task.model) if task.model else None,
        epoch=epoch if isinstance(epoch, int) else None,
        live=is_live_load(task),
    )


def is_live_load(task: Task) -> bool:
    """Whether it is a load that clients wait for: it goes before all else that waits for its worker."""
    return task.action == "load_llm" and task.metadata.get(_LIVE) is True


def is_load_id(task_id: str) -> bool:
    """Whether an id is one of the brain's load ids: where only names are read, such tasks are not counted."""
    return task_id.startswith("load-") and _LOAD_ID_RE.fullmatch(task_id) is not None


def outstanding(snapshot: SwarmSnapshot) -> dict[str, tuple[Outstanding, ...]]:
    """All resource tasks that have not ended, by worker; the one under way first."""
    found: list[Outstanding] = []
    for claim in snapshot.claims:
        if claim.task_class == TaskClass.RESOURCE:
            task = ResourceTask(task_id=claim.task_id, worker=claim.worker, model=claim.model)
            found.append(Outstanding(task, "claimed"))
    for lane in snapshot.lanes:
        found += (Outstanding(task, "pending", lane.oldest_wait_s) for task in lane.resource_tasks)
    found += (Outstanding(view.resource, "blocked") for view in snapshot.blocked if view.resource is not None)
    by_worker: dict[str, list[Outstanding]] = {}
    for one in found:
        by_worker.setdefault(one.task.worker, []).append(one)
    return {worker: tuple(tasks) for worker, tasks in by_worker.items()}


DEFAULT_TASK_S = 1.0
DEFAULT_LOAD_S = 10.0
"""Assumed until a worker has run one task, or done one load, of the model."""


class Demand(msgspec.Struct, frozen=True, kw_only=True):
    """One model's waiting work."""

    model: str
    waiting: int
    """Tasks no worker holds, those a dead worker is about to requeue included."""
    running: int
    task_s: float
    """Learned seconds per task in one slot."""
    load_s: float
    """Learned seconds per load."""
    unserved_s: float
    size_mib: int
    """Largest size seen; 0 while unknown."""

    proven: bool = True
    """It was loaded somewhere: what it takes is known."""
    failed_on: int = 0
    """Workers whose last load of it failed, for another reason than that they have no room, or no such model."""

    @property
    def work_s(self) -> float:
        """Slot-seconds of work left; a running task counts half."""
        return (self.waiting + self.running / 2) * self.task_s


def demands(snapshot: SwarmSnapshot) -> dict[str, Demand]:
    """Demand of every model that has tasks waiting or running, by model name."""
    alive = {w.name for w in snapshot.workers if w.alive}
    open_lanes = (lane for lane in snapshot.lanes if lane.pending and not snapshot.pauses.model(lane.model))
    waiting = {lane.model: lane.pending for lane in open_lanes if lane.model}
    unserved_s = {lane.model: lane.unserved_s for lane in snapshot.lanes if lane.model}
    running: dict[str, int] = {}
    for claim in snapshot.claims:
        if claim.task_class == TaskClass.LLM and claim.model is not None:
            counts = running if claim.worker in alive else waiting
            counts[claim.model] = counts.get(claim.model, 0) + 1
    tallies = _tallies(snapshot)
    every = [tally for of_model in tallies.values() for tally in of_model]
    return {
        model: msgspec.structs.replace(
            _learned(model, tallies.get(model, []), every),
            waiting=waiting.get(model, 0),
            running=running.get(model, 0),
            unserved_s=unserved_s.get(model, 0.0),
        )
        for model in sorted({*waiting, *running})
    }


def no_demand(model: str, snapshot: SwarmSnapshot) -> Demand:
    """A model for which nothing waits or runs, with what was learned of it."""
    tallies = _tallies(snapshot)
    every = [tally for of_model in tallies.values() for tally in of_model]
    return _learned(model, tallies.get(model, []), every)


def _learned(model: str, tallies: list[ModelTally], every: list[ModelTally]) -> Demand:
    return Demand(
        model=model,
        waiting=0,
        running=0,
        task_s=_task_s(tallies),
        load_s=_load_s(tallies, every),
        unserved_s=0.0,
        size_mib=max((t.size_mib for t in tallies), default=0),
        proven=any(t.loads or t.size_mib for t in tallies),
        failed_on=sum(t.load_failures > 0 and not t.no_room and not t.missing for t in tallies),
    )


def _tallies(snapshot: SwarmSnapshot) -> dict[str, list[ModelTally]]:
    found: dict[str, list[ModelTally]] = {}
    for view in snapshot.workers:
        if view.heartbeat is not None:
            for model, tally in view.heartbeat.models.items():
                found.setdefault(model, []).append(tally)
    return found


def _task_s(tallies: list[ModelTally]) -> float:
    done = sum(t.completed + t.failed for t in tallies)
    busy_s = sum(t.busy_s for t in tallies)
    return busy_s / done if done and busy_s > 0 else DEFAULT_TASK_S


def _load_s(tallies: list[ModelTally], every: list[ModelTally]) -> float:
    """Of this model where known, else the mean over all models, which is a better guess than a constant."""
    for known in (tallies, every):
        loads = sum(t.loads for t in known)
        if loads:
            return sum(t.load_s for t in known) / loads
    return DEFAULT_LOAD_S
