"""Lanes, the queues inside ``pending/``: which a worker may claim from, and what the operator has paused.

* A lane is the task class, for llm ``llm@<model>`` and for resource tasks ``resource@<worker>`` (only the target may claim
  those). ``/`` and ``%`` of a model name are percent-encoded so that a lane is one directory name.
* Paused is everything, a model, a batch or a worker: what runs goes on, nothing new of it is started.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

import msgspec

from swarm.core.task import Task, TaskClass, canonical_model


def encode(text: str) -> str:
    """A model name as part of a file name."""
    return text.replace("%", "%25").replace("/", "%2F")


def decode(text: str) -> str:
    """The inverse of ``encode``."""
    return text.replace("%2F", "/").replace("%25", "%")


@lru_cache(maxsize=256)
def llm_lane(model: str) -> str:
    """The lane of a model's tasks; names that mean the same model give the same lane."""
    return f"{TaskClass.LLM}@{encode(canonical_model(model))}"


def resource_lane(worker: str) -> str:
    """The lane only this worker reads."""
    return f"{TaskClass.RESOURCE}@{worker}"


def lane_of(task: Task) -> str:
    """The lane a valid task belongs to."""
    match task.task_class:
        case TaskClass.LLM:
            return llm_lane(task.model or "")
        case TaskClass.RESOURCE:
            return resource_lane(task.target_worker or "")
        case TaskClass.CPU | TaskClass.SCRIPT:
            return str(task.task_class)


def parse_lane(lane: str) -> tuple[TaskClass, str | None] | None:
    """Class and argument (model or worker) of a lane name; None if it is no lane."""
    head, _, tail = lane.partition("@")
    try:
        task_class = TaskClass(head)
    except ValueError:
        return None
    if task_class in (TaskClass.CPU, TaskClass.SCRIPT):
        return (task_class, None) if not tail else None
    return (task_class, decode(tail)) if tail else None


def model_of_lane(lane: str) -> str | None:
    """The canonical model of an llm lane; None for any other."""
    parsed = parse_lane(lane)
    return parsed[1] if parsed is not None and parsed[0] is TaskClass.LLM else None


def preference(*, worker: str, model: str | None, free: Sequence[TaskClass]) -> tuple[str, ...]:
    """Lanes a worker may claim from, best first: resource, then llm of the loaded model, then script, cpu.

    ``free`` are the classes with a free slot. A worker without a model reads no llm lane.
    """
    lanes: list[str] = []
    if TaskClass.RESOURCE in free:
        lanes.append(resource_lane(worker))
    if model is not None and TaskClass.LLM in free:
        lanes.append(llm_lane(model))
    lanes.extend(str(c) for c in (TaskClass.SCRIPT, TaskClass.CPU) if c in free)
    return tuple(lanes)


Kind = Literal["all", "model", "batch", "worker"]


class Pause(msgspec.Struct, frozen=True, omit_defaults=True):
    """One pause."""

    kind: Kind
    name: str = ""
    """Canonical for a model; empty for ``all``."""
    since: str = ""
    """ISO 8601."""

    @property
    def key(self) -> str:
        """Its unique key."""
        return f"{self.kind}:{self.name}"

    @property
    def words(self) -> str:
        """``model llama3.2:3b is paused since …``."""
        what = "everything" if self.kind == "all" else f"{self.kind} {self.name}"
        return f"{what} is paused" + (f" since {self.since}" if self.since else "")

    @property
    def way_out(self) -> str:
        """The command that ends it."""
        match self.kind:
            case "all":
                return "swarm queue resume all"
            case "model":
                return f"swarm queue resume --model {self.name}"
            case "batch":
                return f"swarm queue resume --batch {self.name}"
            case "worker":
                return f"swarm queue resume --worker {self.name}"


class Pauses(msgspec.Struct, frozen=True):
    """All pauses in force."""

    pauses: tuple[Pause, ...] = ()

    def find(self, kind: Kind, name: str = "") -> Pause | None:
        """Exactly this one."""
        return next((p for p in self.pauses if p.kind == kind and p.name == name), None)

    def worker(self, name: str) -> Pause | None:
        """What keeps this worker from claiming."""
        return self.find("all") or self.find("worker", name)

    def model(self, model: str | None) -> Pause | None:
        """What keeps tasks of this model from being claimed by anybody."""
        if not self.pauses:
            return None
        return self.find("all") or (self.find("model", canonical_model(model)) if model is not None else None)

    def batch(self, batch_id: str | None) -> Pause | None:
        """What keeps tasks of this batch from running, beyond ``all``."""
        return self.find("batch", batch_id) if self.pauses and batch_id is not None else None

    def with_one(self, pause: Pause) -> Pauses:
        """With this one; one that stands already keeps its time."""
        return self if self.find(pause.kind, pause.name) else Pauses((*self.pauses, pause))

    def without(self, kind: Kind, name: str = "") -> Pauses:
        """Without this one; ``all`` ends every pause."""
        return Pauses() if kind == "all" else Pauses(tuple(p for p in self.pauses if (p.kind, p.name) != (kind, name)))
