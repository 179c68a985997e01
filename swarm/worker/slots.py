"""The slots: what a worker runs, on pool threads or the event loop, with deadline and cancel check."""

from __future__ import annotations

from collections.abc import Sequence
from queue import Empty, SimpleQueue
from time import monotonic
from typing import NamedTuple

from swarm.core.policy.slots import SERVED, Occupancy, may_start
from swarm.core.task import Claim, TaskClass
from swarm.errors import SwarmError
from swarm.runtime.ports import RequestExecutor
from swarm.worker.attempt import CancelReason, Run, ThreadPool
from swarm.worker.parts import WorkerParts

HUNG_AFTER_S = 60.0
"""An attempt that was stopped and still runs after this long has lost its thread for good: the process must end."""
CANCEL_CHECK_S = 0.2
"""How often running tasks are checked for a wish to cancel them."""


class StartRules(NamedTuple):
    """How requests may start."""

    proven: bool = True
    """The server is known to work: one that needs it to itself may start."""
    careful: bool = False
    """One after the other, see ``may_start``."""
    patience_s: float = 0.0
    """So long the next one waits for the one before."""
    hold: bool = False
    """None now."""


class AttemptHung(SwarmError):
    """An attempt did not end although it was stopped."""


class Slots:
    """Owned by the work loop. A run keeps its slot from claim until its outcome is on record."""

    def __init__(self, parts: WorkerParts, pool: ThreadPool) -> None:
        self.runs: tuple[Run, ...] = ()
        self.classes = frozenset(parts.executors) | frozenset(parts.requests)
        self._parts = parts
        self._pool = pool
        self._ended: SimpleQueue[Run] = SimpleQueue()
        self._cancel_check_s = 0.0
        self._woken = False
        """The work loop was woken, and has not looked since."""

    @property
    def loading(self) -> bool:
        """A resource task is under way."""
        return any(run.begun and run.claim.task.task_class is TaskClass.RESOURCE for run in self.runs)

    @property
    def waiting(self) -> tuple[Run, ...]:
        """What has a slot and has not started yet."""
        return tuple(run for run in self.runs if not run.begun)

    @property
    def next_deadline_s(self) -> float:
        """Seconds until the next one is overdue."""
        return min((run.overdue_in_s for run in self.runs), default=float("inf"))

    def take(self, claim: Claim, *, own: bool = False) -> Run:
        """Give a claim a slot; ``begin_ready`` starts it. ``own``: what the worker wants done, no task of the queue."""
        task, settings = claim.task, self._parts.settings
        limits = settings.llm if task.task_class in SERVED else settings.command  # a load may take as long as a request
        run = Run(claim, limit_s=task.timeout_s or limits.timeout_s, own=own)
        self.runs = (*self.runs, run)
        return run

    def adopt(self, run: Run) -> None:
        """Give a slot to a run that has begun already."""
        self.runs = (*self.runs, run)

    def begin_ready(self, rules: StartRules) -> list[Run]:
        """Start what may start now; returns it. A resource task, or a request that needs the server to itself, may have to
        wait for requests to end.
        """
        begun: list[Run] = []
        beside = Occupancy(run.held(rules.patience_s) for run in self.runs)
        progress = sum(run.progress for run in self.runs if run.begun)
        for run in self.waiting:
            if run.cancel.reason is not None:
                continue
            held_back = (rules.hold and run.claim.task.task_class is TaskClass.LLM) or (run.alone and not rules.proven)
            if not held_back and may_start(run.held(), beside, careful=rules.careful):
                self._begin(run)
                beside.add(run.held(rules.patience_s))
                begun.append(run)
            else:
                run.moved_to(progress)  # it moves as long as those it waits for do
        self._send(begun)
        return begun

    def ended(self) -> list[Run]:
        """Runs that have ended since the last call; they keep their slots until ``drop``."""
        found: list[Run] = []
        self._woken = False
        while True:
            try:
                found.append(self._ended.get_nowait())
            except Empty:
                return found

    def drop(self, run: Run) -> None:
        """Free the slot."""
        self.runs = tuple(other for other in self.runs if other is not run)

    def stop(self, run: Run, reason: CancelReason) -> None:
        """Ask one to end. From other threads only for one that has begun."""
        if run.cancel.reason is None and run.ending is None:
            run.stop(reason)
            if not run.begun:
                self._ended.put(run)

    def stop_overdue(self) -> None:
        """Stop what is past its deadline or (looked at now and then) to be cancelled. Raises ``AttemptHung``."""
        now_s, log = monotonic(), self._parts.log
        check = now_s >= self._cancel_check_s
        if check:
            self._cancel_check_s = now_s + CANCEL_CHECK_S
        for run in self.runs:
            task_id = run.claim.task.task_id
            if run.ending is not None:
                continue
            if run.overdue_in_s <= 0:
                log.warning("Task %s is past its limit of %gs: stopping it", task_id, run.limit_s)
                self.stop(run, "timeout")
            elif run.stopping_s > HUNG_AFTER_S:
                raise AttemptHung(f"task {task_id} still runs {HUNG_AFTER_S:.0f} s after it was stopped")
            elif check and run.cancel.reason is None and self._parts.queue.cancel_requested(run.claim):
                log.info("Task %s is to be cancelled: stopping it", task_id)
                self.stop(run, "cancelled")
            elif check and run.cancel.reason is None and self._parts.queue.requeue_requested(run.claim):
                log.info("Task %s is to be requeued: stopping it", task_id)
                self.stop(run, "requeued")

    def stop_all(self, timeout_s: float) -> None:
        """Stop all, and wait until no executor runs any more; for the end of the process."""
        for run in self.runs:
            self.stop(run, "stopping")
        deadline_s = monotonic() + timeout_s
        while any(run.begun and run.ending is None for run in self.runs):
            try:
                self._ended.get(timeout=max(0.0, deadline_s - monotonic()))
            except Empty:
                return

    def _begin(self, run: Run) -> None:
        run.begin()
        executor = self._parts.executors.get(run.claim.task.task_class)
        if executor is None:
            return  # it is sent with others

        def perform() -> None:
            run.perform(executor)
            self._ended.put(run)

        self._pool.submit(perform)

    def _send(self, begun: Sequence[Run]) -> None:
        """Start the requests among them on the event loop, all in one call."""
        requests, loop = self._parts.requests, self._parts.loop
        asked = [self._ask(run, requests[c]) for run in begun if (c := run.claim.task.task_class) in requests]
        if asked:
            assert loop is not None
            loop.start_all(asked)

    async def _ask(self, run: Run, executor: RequestExecutor) -> None:
        """Whoever ends while the work loop is awake already, or about to be, does not wake it again."""
        await run.ask(executor)
        self.has_ended(run)

    def has_ended(self, run: Run) -> None:
        """Tell the work loop; from the event loop."""
        self._ended.put(run)
        if not self._woken:
            self._woken = True
            self._parts.wake()
