"""Which task classes a worker may claim now: free slots, and what must not run together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from swarm.config.settings import LlmSettings, WorkerSettings
from swarm.core.task import Task, TaskClass, canonical_model


class SlotLimits(msgspec.Struct, frozen=True, kw_only=True):
    """How many tasks of each class, and of all, one worker runs at a time."""

    llm: int = 1
    cpu: int = 1
    script: int = 1
    resource: int = 1
    total: int = 5

    def of(self, task_class: TaskClass) -> int:
        """The slots of one class."""
        limits = {TaskClass.LLM: self.llm, TaskClass.CPU: self.cpu, TaskClass.SCRIPT: self.script}
        return limits.get(task_class, self.resource)


def slot_limits(worker: WorkerSettings, llm: LlmSettings) -> SlotLimits:
    """The limits the settings ask for. More llm slots than ``max_tasks_per_worker`` raise the total: the card decides.

    One llm slot where they are not set: as many as are chosen come on top.
    """
    slots = llm.slots if isinstance(llm.slots, int) else 1
    return SlotLimits(llm=slots, cpu=worker.cpu_slots, total=max(worker.max_tasks_per_worker, slots))


class Held(NamedTuple):
    """A task that a worker holds."""

    task: Task
    alone: bool = False
    """It needs its server to itself."""
    begun: bool = True
    answering: bool = True
    """Its answer has begun, or was awaited for long enough."""
    judged: bool = False
    """Its request has ended, and whom to blame for how it did is being found out: it takes up no slot, as long as there are
    no more of its kind than slots."""


def free_classes(limits: SlotLimits, held: Sequence[Held], *, server_open: bool) -> tuple[TaskClass, ...]:
    """Classes with a free slot.

    While the server is closed (unusable, or its circuit breaker is open) neither llm nor resource tasks start. While a
    resource task is held no llm task starts: otherwise a load waiting for the running requests to end would wait for
    ever, and one running would find its model in use. The same for a request that needs the server to itself.
    """
    judged = sum(one.judged for one in held)
    if len(held) - min(judged, limits.llm) >= limits.total:
        return ()
    classes = [one.task.task_class for one in held if not one.judged]
    classes += [TaskClass.LLM] * max(0, judged - limits.llm)
    closed: set[TaskClass] = set()
    if not server_open or any(one.alone and not one.judged for one in held):
        closed |= {TaskClass.LLM, TaskClass.RESOURCE}
    if TaskClass.RESOURCE in classes:
        closed.add(TaskClass.LLM)
    return tuple(c for c in TaskClass if c not in closed and classes.count(c) < limits.of(c))


def may_start(one: Held, others: Sequence[Held], *, careful: bool = False) -> bool:
    """Whether a claimed task may start beside those held; only resource tasks, and requests that run alone, ever wait.

    A load may run beside requests to the same model (it changes nothing then); else the llm slots must be idle first.
    ``careful``: requests start one after the other, each once the answer to the one before has begun. What breaks the
    server does so early, mostly; so it is known which one it was.
    """
    task = one.task
    served = [other for other in others if other.task.task_class in (TaskClass.LLM, TaskClass.RESOURCE)]
    if task.task_class is TaskClass.LLM:
        busy = [other for other in served if other.begun]
        if careful and any(not (other.answering or other.judged) for other in busy):
            return False
        return not (busy if one.alone else [other for other in busy if other.alone and not other.judged])
    if task.task_class is not TaskClass.RESOURCE:
        return True
    models = {canonical_model(other.task.model or "") for other in served if other.task.task_class is TaskClass.LLM}
    if task.action == "load_llm" and task.model is not None:
        return models <= {canonical_model(task.model)}
    return not models
