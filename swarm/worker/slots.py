"""The slots: what this worker runs at the moment, each in a pool thread, with its deadline and its cancel check.

Kept threads for attempts and probes: starting a thread per task would cost more than claiming it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from queue import Empty, SimpleQueue
from typing import NamedTuple

from swarm.core.claim import Claim
from swarm.core.policy.slots import may_start
from swarm.core.task import TaskClass
from swarm.errors import SwarmError
from swarm.runtime.ports import Clock, Executor
from swarm.worker.attempt import CancelReason, Run

Job = Callable[[], None]


class ThreadPool:
    """At most ``size`` daemon threads, started when first needed and kept.

    Daemons, unlike those of ``concurrent.futures``: a thread stuck in a dead server must never keep the process alive.
    """

    def __init__(self, size: int, name: str) -> None:
        self._size = size
        self._name = name
        self._jobs: SimpleQueue[Job] = SimpleQueue()
        self._idle = threading.Semaphore(0)
        self._started = 0

    def submit(self, job: Job) -> None:
        """Run ``job`` soon, in a thread of its own if one is free. For one caller's thread; ``job`` must not raise."""
        self._jobs.put(job)
        if self._idle.acquire(blocking=False) or self._started >= self._size:
            return
        self._started += 1
        threading.Thread(target=self._work, name=f"{self._name}-{self._started}", daemon=True).start()

    def _work(self) -> None:
        while True:
            self._jobs.get()()
            self._idle.release()


HUNG_AFTER_S = 60.0
"""An attempt that was stopped and still runs after this long has lost its thread for good: the process must end."""


class Begin(NamedTuple):
    """How requests may start."""

    proven: bool = True
    """The server is known to work: one that needs it to itself may start."""
    careful: bool = False
    """One after the other, see ``may_start``."""
    patience_s: float = 0.0
    """So long the next one waits for the one before."""
    hold: bool = False
    """None now."""


EASY = Begin()


class AttemptHung(SwarmError):
    """An attempt did not end although it was stopped."""


class Running:
    """Owned by the work loop. A run keeps its slot from claim until its outcome is on record."""

    def __init__(
        self,
        executors: Mapping[TaskClass, Executor],
        *,
        limit_s: Mapping[TaskClass, float],
        pool: ThreadPool,
        wake: Callable[[], None],
        clock: Clock,
        log: logging.Logger,
    ) -> None:
        self.runs: tuple[Run, ...] = ()
        self.classes = frozenset(executors)
        self._executors = executors
        self._limit_s = limit_s
        self._pool = pool
        self._wake = wake
        self._clock = clock
        self._log = log
        self._ended: SimpleQueue[Run] = SimpleQueue()

    @property
    def loading(self) -> bool:
        """A resource task is under way."""
        return any(run.begun and run.claim.task.task_class is TaskClass.RESOURCE for run in self.runs)

    def take(self, claim: Claim) -> Run:
        """Give a claim a slot; ``begin_ready`` starts it."""
        limit_s = claim.task.timeout_s or self._limit_s[claim.task.task_class]
        run = Run(claim, limit_s=limit_s, clock=self._clock)
        self.runs = (*self.runs, run)
        return run

    @property
    def waiting(self) -> bool:
        """Something has a slot and may not start yet."""
        return any(not run.begun for run in self.runs)

    def begin_ready(self, how: Begin = EASY) -> list[Run]:
        """Start what may start now; returns it. A resource task, or a request that needs the server to itself, may have to
        wait for requests to end.
        """
        begun: list[Run] = []
        for run in self.runs:
            if run.begun or run.cancel.reason is not None:
                continue
            others = [other for other in self.runs if other is not run]
            held_back = (how.hold and run.claim.task.task_class is TaskClass.LLM) or (run.alone and not how.proven)
            if not held_back and may_start(
                run.held, [other.held_by(how.patience_s) for other in others], careful=how.careful
            ):
                self._begin(run)
                begun.append(run)
            else:
                run.progress = sum(other.progress for other in others)  # it moves as long as those it waits for do
        return begun

    def send_away_alone(self) -> None:
        """Give back the requests that wait to have the server to themselves."""
        for run in self.runs:
            if run.alone and not run.begun:
                self.stop(run, "stopping")

    def ended(self) -> list[Run]:
        """Runs that have ended since the last call; they keep their slots until ``drop``."""
        found: list[Run] = []
        while True:
            try:
                found.append(self._ended.get_nowait())
            except Empty:
                return found

    def drop(self, run: Run) -> None:
        """Free the slot."""
        self.runs = tuple(other for other in self.runs if other is not run)

    def stop(self, run: Run, reason: CancelReason) -> None:
        """Ask one to end."""
        if run.cancel.reason is None and run.ending is None:
            run.stop(reason)
            if not run.begun:
                self._ended.put(run)

    def police(self, cancel_wanted: Callable[[Claim], bool] | None) -> None:
        """Stop what is overdue or (asked now and then) unwanted. Raises ``AttemptHung``."""
        for run in self.runs:
            if run.ending is not None:
                continue
            task_id = run.claim.task.task_id
            if run.overdue_in_s <= 0:
                self._log.warning("Task %s is past its %gs: stopping it", task_id, run.limit_s)
                self.stop(run, "timeout")
            elif run.stopping_s > HUNG_AFTER_S:
                raise AttemptHung(f"task {task_id} still runs {HUNG_AFTER_S:.0f} s after it was stopped")
            elif cancel_wanted is not None and run.cancel.reason is None and cancel_wanted(run.claim):
                self._log.info("Task %s is to be cancelled: stopping it", task_id)
                self.stop(run, "cancelled")

    def next_deadline_s(self) -> float:
        """Seconds until the next one is overdue."""
        return min((run.overdue_in_s for run in self.runs), default=float("inf"))

    def wait_for_threads(self, timeout_s: float) -> None:
        """Stop all, and wait until no executor runs any more; for the end of the process."""
        for run in self.runs:
            self.stop(run, "stopping")
        deadline_s = self._clock.mono_s() + timeout_s
        while any(run.begun and run.ending is None for run in self.runs):
            try:
                self._ended.get(timeout=max(0.0, deadline_s - self._clock.mono_s()))
            except Empty:
                return

    def _begin(self, run: Run) -> None:
        executor = self._executors[run.claim.task.task_class]
        run.begin()

        def perform() -> None:
            run.perform(executor)
            self._ended.put(run)
            self._wake()

        self._pool.submit(perform)
