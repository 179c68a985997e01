"""Which task classes a worker may claim now: free slots, and what must not run together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from swarm.config.settings import LlmSettings, WorkerSettings
from swarm.core.task import Task, TaskClass, canonical_model

SERVED = (TaskClass.LLM, TaskClass.RESOURCE)
"""What needs the model server."""


class SlotLimits(msgspec.Struct, frozen=True, kw_only=True):
    """How many tasks of each class, and of all, one worker runs at a time."""

    llm: int = 1
    cpu: int = 1
    script: int = 1
    resource: int = 1
    total: int = 5
    pack: int = 1
    """So many packed requests take up one llm slot."""

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
    packed: bool = False
    """It shares one request to the server with others of its kind."""


class Occupancy:
    """What a worker holds, counted: whether one more may be claimed or started then costs no look at all the others."""

    def __init__(self, held: Iterable[Held] = ()) -> None:
        self.tasks = 0
        """Of all classes, but for packed requests."""
        self.packed = 0
        """Requests that share one with others (``Held.packed``)."""
        self.judged = 0
        self.classes: Counter[TaskClass] = Counter()
        """Tasks that take up a slot each: neither judged nor packed."""
        self.alone = 0
        """Tasks that need the server to themselves, and are not judged."""
        self.begun_requests = 0
        """Requests and loads under way, those that are judged included."""
        self.begun_alone = 0
        self.silent = 0
        """Requests and loads under way whose answer has not begun."""
        self.models: set[str] = set()
        """Of all requests, as they spell them."""
        for one in held:
            self.add(one)

    @property
    def uses_server(self) -> bool:
        """Whether a request or a load is held."""
        return bool(self.models) or self.classes[TaskClass.RESOURCE] > 0

    def add(self, one: Held) -> None:
        """Hold one more."""
        task_class = one.task.task_class
        if task_class is TaskClass.LLM:
            self.models.add(one.task.model or "")
        counts = not one.judged
        self.judged += one.judged
        self.alone += one.alone and counts
        self.packed += one.packed and counts
        self.tasks += not (one.packed and counts)
        if counts and not one.packed:
            self.classes[task_class] += 1
        if one.begun and task_class in SERVED:
            self.begun_requests += 1
            self.begun_alone += one.alone and counts
            self.silent += counts and not one.answering


def free_classes(limits: SlotLimits, held: Occupancy, *, server_open: bool) -> tuple[TaskClass, ...]:
    """Classes with a free slot. ``total`` does not bound loads: one waits for what runs, or what runs gives way to it.

    While the server is closed (unusable, or its circuit breaker is open) neither llm nor resource tasks start. While a
    resource task is held no llm task starts: otherwise a load waiting for the running requests to end would wait for
    ever, and one running would find its model in use. The same for a request that needs the server to itself.
    """
    packs = held.packed // limits.pack
    closed: set[TaskClass] = set()
    if held.tasks + packs - min(held.judged, limits.llm) >= limits.total:
        closed |= {TaskClass.LLM, TaskClass.CPU, TaskClass.SCRIPT}
    if not server_open or held.alone:
        closed |= {TaskClass.LLM, TaskClass.RESOURCE}
    if held.classes[TaskClass.RESOURCE]:
        closed.add(TaskClass.LLM)
    used = held.classes + Counter({TaskClass.LLM: packs + max(0, held.judged - limits.llm)})
    return tuple(c for c in TaskClass if c not in closed and used[c] < limits.of(c))


def may_start(one: Held, others: Occupancy, *, careful: bool = False) -> bool:
    """Whether a claimed task may start beside those held; only resource tasks, and requests that run alone, ever wait.

    A load may run beside requests to the same model (it changes nothing then, unless it is alone, being a reload); else the
    llm slots must be idle first.
    ``careful``: requests start one after the other, each once the answer to the one before has begun. What breaks the
    server does so early, mostly; so it is known which one it was. Of a pack its halves tell.
    """
    task = one.task
    if task.task_class is TaskClass.LLM:
        if careful and others.silent and not one.packed:
            return False
        return not (others.begun_requests if one.alone else others.begun_alone)
    if task.task_class is not TaskClass.RESOURCE:
        return True
    models = {canonical_model(model) for model in others.models}
    if task.action == "load_llm" and task.model is not None and not one.alone:
        return models <= {canonical_model(task.model)}
    return not models
