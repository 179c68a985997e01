"""Load tasks: their deterministic ids, and which resource tasks each worker has outstanding.

The id names worker, model, the worker's life (epoch) and the number of resource tasks it has ended in it. A restarted
brain therefore makes the same id for the same deficit, and the queue refuses it a second time. The id is only a key: what a
load is for, its document says.
"""

from __future__ import annotations

import hashlib
import re
from typing import Any, Literal

import msgspec

from swarm.core.snapshot import ResourceTask, SwarmSnapshot
from swarm.core.task import RESOURCE_PRIORITY, Task, TaskClass, canonical_model

_EPOCH = "worker_epoch"
"""In the metadata: the life of the worker that the brain made the load for."""
_ID_LENGTH = 64
_TAIL_LENGTH = len("-e999999-r9999999-99")
_HASH_LENGTH = 6
_LOAD_ID_RE = re.compile(r"load-.+-e\d+-r\d+(-\d+)?")


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
        """The brain made it and nobody has begun it."""
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


def load_id(worker: str, model: str, *, epoch: int, resource_seq: int) -> str:
    """Id of the load task for this deficit; a legal task id for every legal worker and model name."""
    return f"load-{worker}-{model_slug(worker, model)}-e{epoch % 10**6}-r{resource_seq % 10**7}"


def load_document(worker: str, model: str, epoch: int) -> dict[str, Any]:
    """A load task of the brain's, but for its id."""
    return {
        "task_class": str(TaskClass.RESOURCE),
        "action": "load_llm",
        "name": f"load {model} on {worker}",
        "target_worker": worker,
        "model": model,
        "priority": RESOURCE_PRIORITY,
        "metadata": {_EPOCH: epoch},
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
    )


def is_load_id(task_id: str) -> bool:
    """Whether an id has the form of the brain's own: such tasks are not counted as people's where only names are read."""
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
