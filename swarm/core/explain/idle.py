"""Explains why a worker has nothing to do: for its log, its heartbeat and ``explain``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping

import msgspec

from swarm.core.lanes import llm_lane, parse_lane
from swarm.core.task import TaskClass


class IdleReason(msgspec.Struct, frozen=True):
    """``key`` changes when the reason does (not with every count); ``line`` is for the log, ``text`` for display."""

    key: str
    line: str
    text: str


def idle_reason(waiting: Mapping[str, int], *, worker: str, model: str | None, closed: str) -> IdleReason:
    """Why a worker with free slots claimed nothing while ``waiting`` (tasks per lane) lay in the queue.

    ``closed`` says why it takes no llm work (its server is down …), or is empty.
    """
    by_class = _by_class(waiting)
    if not by_class:
        return IdleReason("empty", "Queue empty", closed or "queue empty")
    preferred = preferred_classes(model)
    queue = ", ".join(f"{name}:{count}" for name, count in by_class.items())
    loaded = "False" if model is None else f"True ({model})"
    text = closed or _mismatch(waiting, worker=worker, model=model)
    line = f"No suitable tasks - Queue: [{queue}], Preferred: {preferred}, Model loaded: {loaded} - {text}"
    return IdleReason(f"{sorted(by_class)} {model} {closed}", line, text)


def preferred_classes(model: str | None) -> list[str]:
    """The order in which a worker prefers classes: its hot model first, scripts first while it is cold."""
    hot = (TaskClass.RESOURCE, TaskClass.LLM, TaskClass.SCRIPT, TaskClass.CPU)
    cold = (TaskClass.RESOURCE, TaskClass.SCRIPT, TaskClass.CPU, TaskClass.LLM)
    return [str(c) for c in (cold if model is None else hot)]


def suits(waiting: Collection[str], lanes: Collection[str]) -> bool:
    """Whether anything waits in the lanes a worker reads (it came just after the worker had looked)."""
    return any(lane in waiting for lane in lanes)


def _by_class(waiting: Mapping[str, int]) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for lane, count in waiting.items():
        parsed = parse_lane(lane)
        if parsed is not None and count > 0:
            counts[str(parsed[0])] += count
    return dict(counts)


def _mismatch(waiting: Mapping[str, int], *, worker: str, model: str | None) -> str:
    models = Counter[str]()
    others = 0
    for lane, count in waiting.items():
        match parse_lane(lane):
            case (TaskClass.LLM, str(wanted)) if model is None or lane != llm_lane(model):
                models[wanted] += count
            case (TaskClass.RESOURCE, str(target)) if target != worker:
                others += count
            case _:
                continue
    parts = [f"{count} llm tasks wait for {wanted}" for wanted, count in models.most_common(3)]
    if len(models) > 3:
        parts.append(f"{len(models) - 3} more models are waited for")
    if others:
        parts.append(f"{others} resource tasks are for other workers")
    held = "no model is loaded here" if model is None else f"loaded here is {model}"
    return "; ".join([*parts, held])
