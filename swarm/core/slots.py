"""Which classes of work a worker may take on now: free slots, and what must not run beside what."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from swarm.core.task import Task, TaskClass, canonical_model
from swarm.settings import LlmSettings, WorkerSettings


class SlotLimits(msgspec.Struct, frozen=True, kw_only=True):
    """How many tasks of each class, and of all, one worker runs at a time."""

    llm: int = 1
    cpu: int = 1
    script: int = 1
    resource: int = 1
    total: int = 5

    def of(self, task_class: TaskClass) -> int:
        """The slots of one class."""
        match task_class:
            case TaskClass.LLM:
                return self.llm
            case TaskClass.CPU:
                return self.cpu
            case TaskClass.SCRIPT:
                return self.script
            case TaskClass.RESOURCE:
                return self.resource


def slot_limits(worker: WorkerSettings, llm: LlmSettings) -> SlotLimits:
    """The limits the settings ask for. More llm slots than ``max_tasks_per_worker`` raise the total: the card decides."""
    return SlotLimits(llm=llm.slots, cpu=worker.cpu_slots, total=max(worker.max_tasks_per_worker, llm.slots))


def free_classes(limits: SlotLimits, running: Sequence[Task], *, server_open: bool) -> tuple[TaskClass, ...]:
    """Classes with a free slot.

    While the server is closed (unusable, or its circuit breaker is open) neither llm nor resource tasks start. While a
    resource task is held no llm task starts: otherwise a load waiting for the running requests to end would wait for
    ever, and one running would find its model in use.
    """
    if len(running) >= limits.total:
        return ()
    held = [task.task_class for task in running]
    closed: set[TaskClass] = set()
    if not server_open:
        closed |= {TaskClass.LLM, TaskClass.RESOURCE}
    if TaskClass.RESOURCE in held:
        closed.add(TaskClass.LLM)
    return tuple(c for c in TaskClass if c not in closed and held.count(c) < limits.of(c))


def may_start(task: Task, running: Sequence[Task]) -> bool:
    """Whether a claimed task may start beside those running; only resource tasks ever wait.

    A load may run beside requests to the same model (it changes nothing then); else the llm slots must be idle first.
    """
    if task.task_class is not TaskClass.RESOURCE:
        return True
    models = {canonical_model(other.model or "") for other in running if other.task_class is TaskClass.LLM}
    if task.action == "load_llm" and task.model is not None:
        return models <= {canonical_model(task.model)}
    return not models
