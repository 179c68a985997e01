"""Load tasks: their deterministic ids, and which worker has one outstanding.

The id names worker, model, the worker's life (epoch) and the number of resource tasks it has ended in it. A restarted
brain therefore makes the same id for the same deficit, and the queue refuses it a second time.
"""

from __future__ import annotations

import hashlib
import re
from typing import Literal

import msgspec

from swarm.core.snapshot import ClaimView, LaneView, SwarmSnapshot, WorkerView
from swarm.core.task import TaskClass

_ID_LENGTH = 64
_TAIL_LENGTH = len("-e999999-r9999999-99")
_HASH_LENGTH = 6
_ANY_LOAD_RE = re.compile(r"load-.+-e\d+-r\d+(-\d+)?")
_TAIL_RE = re.compile(r"e\d+-r\d+(-\d+)?")


class Outstanding(msgspec.Struct, frozen=True, kw_only=True):
    """A resource task of a worker that has not ended."""

    task_id: str
    model: str | None
    """The model it will load; None when the id does not tell (an ``unload_llm``, or one that people submitted)."""
    where: Literal["pending", "claimed", "blocked"]
    ours: bool
    """The brain made it, so the brain may withdraw it."""
    wait_s: float = 0.0
    """Age of a pending one by the wall clock."""


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


def is_load_id(task_id: str, worker: str) -> bool:
    """Whether the brain could have made this id for this worker."""
    prefix = f"load-{worker}-"
    return task_id.startswith(prefix) and re.search(r"-e\d+-r\d+(-\d+)?$", task_id) is not None


def is_brains_own(task_id: str) -> bool:
    """Whether the brain could have made this id for some worker: such a task is none of people's, and not counted as one."""
    return task_id.startswith("load-") and _ANY_LOAD_RE.fullmatch(task_id) is not None


def is_of_life(task_id: str, epoch: int) -> bool:
    """Whether a load id names this life of its worker."""
    found = re.search(r"-e(\d+)-r\d+(-\d+)?$", task_id)
    return found is not None and int(found[1]) == epoch % 10**6


def model_of_load(task_id: str, worker: str, models: frozenset[str]) -> str | None:
    """Which of ``models`` a load id stands for; None if for none of them."""
    for model in sorted(models):
        prefix = f"load-{worker}-{model_slug(worker, model)}-"
        if task_id.startswith(prefix) and _TAIL_RE.fullmatch(task_id[len(prefix) :]):
            return model
    return None


def known_models(snapshot: SwarmSnapshot) -> frozenset[str]:
    """Every model that waits, runs, or was ever loaded by a worker of this picture."""
    models = {lane.model for lane in snapshot.lanes if lane.model}
    models |= {claim.model for claim in snapshot.claims if claim.model}
    models |= {blocked.model for blocked in snapshot.blocked if blocked.model}
    for view in snapshot.workers:
        if view.heartbeat is not None:
            models |= {*view.heartbeat.models, *([view.heartbeat.model] if view.heartbeat.model else [])}
    return frozenset(models)


def is_resource_claim(claim: ClaimView) -> bool:
    """Whether a claim is a resource task; told by its id until a heartbeat has named its class."""
    if claim.task_class is None:
        return is_load_id(claim.task_id, claim.worker)
    return claim.task_class == TaskClass.RESOURCE


def outstanding(snapshot: SwarmSnapshot) -> dict[str, tuple[Outstanding, ...]]:
    """All resource tasks that have not ended, by worker; the one under way first."""
    models = known_models(snapshot)
    found: dict[str, list[Outstanding]] = {}
    for claim in snapshot.claims:
        if is_resource_claim(claim):
            found.setdefault(claim.worker, []).append(_claimed(claim, models))
    for lane in snapshot.lanes:
        if lane.target_worker is not None:
            found.setdefault(lane.target_worker, []).extend(_pending(lane, lane.target_worker, models))
    for blocked in snapshot.blocked:
        worker = _owner(blocked.task_id, snapshot.workers)
        if worker is not None:
            model = model_of_load(blocked.task_id, worker, models)
            found.setdefault(worker, []).append(
                Outstanding(task_id=blocked.task_id, model=model, where="blocked", ours=True)
            )
    return {worker: tuple(tasks) for worker, tasks in found.items()}


def _claimed(claim: ClaimView, models: frozenset[str]) -> Outstanding:
    model = claim.model or model_of_load(claim.task_id, claim.worker, models)
    return Outstanding(task_id=claim.task_id, model=model, where="claimed", ours=is_load_id(claim.task_id, claim.worker))


def _pending(lane: LaneView, worker: str, models: frozenset[str]) -> list[Outstanding]:
    return [
        Outstanding(
            task_id=task_id,
            model=model_of_load(task_id, worker, models),
            where="pending",
            ours=is_load_id(task_id, worker),
            wait_s=lane.oldest_wait_s,
        )
        for task_id in lane.first_ids
    ]


def _owner(task_id: str, workers: tuple[WorkerView, ...]) -> str | None:
    """The worker a blocked load task is for: the longest name that fits, since one name may begin another."""
    names = [w.name for w in workers if is_load_id(task_id, w.name)]
    return max(names, key=len, default=None)
