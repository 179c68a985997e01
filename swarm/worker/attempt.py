"""One attempt at a task: cancel token, progress, deadline, ending; and the threads for them."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from queue import SimpleQueue
from time import monotonic
from typing import Literal

import msgspec

from swarm.clock import now_iso
from swarm.core.faults import FaultClass, TaskFault
from swarm.core.health.blame import MOST_HITS
from swarm.core.policy.retry import hits, runs_alone
from swarm.core.policy.slots import SERVED, Held
from swarm.core.task import EMBED, Claim, TaskClass, Trail
from swarm.core.worker import SlotView
from swarm.runtime.ports import Executor, RequestExecutor

log = logging.getLogger(__name__)

PROVEN_PIECES = 2
CancelReason = Literal["cancelled", "timeout", "stopping", "yielded", "requeued", "card_lost"]
"""``yielded``: to a live request, or to a load that one waits for."""


class ThreadPool:
    """At most ``size`` daemon threads, started when first needed and kept; ``wake`` is called after each job.

    Daemons, unlike those of ``concurrent.futures``: a thread stuck in a dead server must never keep the process alive.
    """

    def __init__(self, size: int, name: str, wake: Callable[[], None]) -> None:
        self._size = size
        self._name = name
        self._wake = wake
        self._jobs: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._idle = threading.Semaphore(0)
        self._started = 0

    def submit(self, job: Callable[[], None]) -> None:
        """Run ``job`` soon, in a thread of its own if one is free. For one caller's thread; ``job`` must not raise."""
        self._jobs.put(job)
        if self._idle.acquire(blocking=False) or self._started >= self._size:
            return
        self._started += 1
        threading.Thread(target=self._work, name=f"{self._name}-{self._started}", daemon=True).start()

    def _work(self) -> None:
        while True:
            self._jobs.get()()
            self._wake()
            self._idle.release()


class Cancel:
    """Fits ``CancelToken``. The first reason stays; callbacks run once, in the thread that cancels."""

    def __init__(self) -> None:
        self._reason: CancelReason | None = None
        self._callbacks: list[Callable[[], None]] = []
        self._lock = threading.Lock()

    @property
    def reason(self) -> CancelReason | None:
        """Why it was cancelled, or None."""
        return self._reason

    def on_cancel(self, callback: Callable[[], None]) -> None:
        """Call this when cancelled; at once if it already is."""
        with self._lock:
            if self._reason is None:
                self._callbacks.append(callback)
                return
        callback()

    def cancel(self, reason: CancelReason) -> bool:
        """Cancel; False if it was already. A callback that raises is logged and does not keep the others from running."""
        with self._lock:
            if self._reason is not None:
                return False
            self._reason = reason
            callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            try:
                callback()
            except Exception:  # another's callback must not take the work loop with it
                log.exception("a cancel callback failed")
        return True


class Released(msgspec.Struct, frozen=True):
    """The attempt was stopped for the worker's sake; the task is requeued untouched."""


Ending = Trail | TaskFault | Released


def held_claim(claim: Claim) -> Held:
    """What a claim takes up before it begins."""
    alone = runs_alone(claim.attempts, claim.attempt)
    return Held(claim.task, alone=alone, begun=False, packed=packable(claim))


def packable(claim: Claim) -> bool:
    """Whether it may share one request to the server with others."""
    return claim.task.endpoint == EMBED and not runs_alone(claim.attempts, claim.attempt)


class Run:
    """A claimed task in a slot. The work loop owns it; who runs it only counts progress and leaves the ending."""

    def __init__(self, claim: Claim, *, limit_s: float, own: bool = False, live: bool = False) -> None:
        self.claim = claim
        self.cancel = Cancel()
        self.limit_s = limit_s
        self.uses_server = claim.task.task_class in SERVED
        self.begun = False
        """Its executor was started."""
        self.judged = False
        """It has ended, and whom to blame for how it did is being found out."""
        self.ending: Ending | None = None
        self.phase = "waiting"
        self.progress = 0
        """Grows with each token or output chunk."""
        self.pieces = 0
        """Of its answer that have come."""
        self.first_s = 0.0
        """Seconds until the first of them."""
        self.heard_s = float("-inf")
        """When the last of them came (monotonic)."""
        self.started_at = ""
        self.started_s = self._moved_s = monotonic()
        self.ended_s = float("inf")
        self.elapsed_s = 0.0
        self.energy_j: float | None = None
        """Its share of what the cards used while it ran."""
        self._cancelled_s: float | None = None
        self.own = own or live
        """No task of the queue, so that nothing is recorded: what the worker itself wants done, or a live request."""
        self.live = live
        self._alone = own or runs_alone(claim.attempts, claim.attempt)
        self._packable = packable(claim) and not live
        self._to_the_end = own or hits(claim.attempts, claim.attempt) >= MOST_HITS

    def begin(self) -> None:
        """It leaves the waiting phase: the deadline counts from now."""
        self.begun, self.phase = True, "running"
        self.started_at = now_iso()
        self.started_s = self._moved_s = monotonic()

    def moved_to(self, progress: int) -> None:
        """Record its progress."""
        if progress != self.progress:
            self.progress, self._moved_s = progress, monotonic()

    def perform(self, executor: Executor) -> None:
        """Run to the end and leave the ``ending``. Never raises; for a thread of its own."""
        try:
            self._end(executor.run(self.claim, cancel=self.cancel, progress=self._advance))
        except Exception as error:  # noqa: BLE001 - logged there
            self._end(self._judged(self._fault_of(error)))

    async def ask(self, executor: RequestExecutor) -> None:
        """The same on an event loop: a cancel ends the task that awaits this."""
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None

        def cut() -> None:
            loop.call_soon_threadsafe(task.cancel)

        self.cancel.on_cancel(cut)
        try:
            self._end(await executor.run(self.claim, progress=self._advance))
        except asyncio.CancelledError:
            reason = self.cancel.reason
            self._end(Released() if reason is None else self._judged(TaskFault("cancelled", reason, f"stopped: {reason}")))
        except Exception as error:  # noqa: BLE001 - logged there
            self._end(self._judged(self._fault_of(error)))

    def _fault_of(self, error: Exception) -> TaskFault:
        """An executor's bug is that attempt's fault, never the worker's end."""
        if isinstance(error, TaskFault):
            return error
        log.error("Task %s: unexpected error in its executor", self.claim.task.task_id, exc_info=error)
        return TaskFault("transient", "internal", f"unexpected {type(error).__name__}: {error}")

    def _end(self, ending: Ending) -> None:
        self.ended_s = monotonic()
        self.elapsed_s = self.ended_s - self.started_s
        self.phase = "recording"
        self.ending = ending

    def stop(self, reason: CancelReason) -> None:
        """Ask it to end; one that has not begun ends here. A result that is there all the same wins."""
        if not self.cancel.cancel(reason):
            return
        self._cancelled_s = monotonic()
        self.phase = "stopping"
        if not self.begun:
            self.ending = self._judged(TaskFault("cancelled", reason, "it had not started"))

    @property
    def verdict(self) -> FaultClass | Literal["completed", "released"]:
        """How it ended, in one word; for one that has."""
        match self.ending:
            case Trail():
                return "completed"
            case TaskFault(fault=fault):
                return fault
            case Released() | None:
                return "released"

    @property
    def proves_server(self) -> bool:
        """Whether the server did work for it: no cached answer, and no load or unload that was done already."""
        if not isinstance(self.ending, Trail) or self.ending.cached:
            return False
        result = self.ending.result or {}
        idle = result.get("already_loaded") is True or result.get("was_loaded") is False
        return not (idle and self.claim.task.task_class is TaskClass.RESOURCE)

    @property
    def overdue_in_s(self) -> float:
        """Seconds until its deadline; never for one that waits to begin or is being stopped."""
        if self.phase != "running":
            return float("inf")
        return self.started_s + self.limit_s - monotonic()

    @property
    def stopping_s(self) -> float:
        """Seconds since it was asked to end; 0 if it was not."""
        return 0.0 if self._cancelled_s is None else monotonic() - self._cancelled_s

    @property
    def alone(self) -> bool:
        """It needs its server to itself: until its answer has begun, since what breaks a server mostly does so before that.

        One that failed together with others too often: to its end.
        """
        return self._alone and (self._to_the_end or self.pieces < PROVEN_PIECES)

    @property
    def takes_engine_slot(self) -> bool:
        """It is under way at the engine by itself, and is to go on."""
        served = self.begun and self.claim.task.task_class is TaskClass.LLM and not self._packable
        return served and self.ending is None and self.cancel.reason is None

    def held(self, patience_s: float = 0.0) -> Held:
        """What it takes up, for who waits that long for its answer to begin."""
        answering = self.pieces > 0 or monotonic() - self.started_s > patience_s
        return Held(self.claim.task, self.alone, self.begun, answering, self.judged, self._packable)

    def view(self) -> SlotView:
        """For the heartbeat; safe from any thread."""
        task, now_s = self.claim.task, monotonic()
        return SlotView(
            task_id=task.task_id,
            task_class=str(task.task_class),
            name=task.name,
            model=task.model,
            attempt=self.claim.attempt,
            phase=self.phase,
            progress=self.progress,
            elapsed_s=round(now_s - self.started_s, 3),
            quiet_s=round(now_s - self._moved_s, 3),
        )

    def _advance(self, count: int) -> None:
        self.heard_s = monotonic()
        if not self.pieces:
            self.first_s = self.heard_s - self.started_s
        self.pieces += count
        self.moved_to(self.progress + count)

    def _judged(self, fault: TaskFault) -> TaskFault | Released:
        """What a fault means once the attempt was cancelled: the cancel's reason, not the torn connection it caused."""
        match self.cancel.reason:
            case None:
                return fault
            case "timeout":
                message = f"no end within {self.limit_s:g} s; raise its timeout_s if that is too short"
                return TaskFault("transient", "timeout", message)
            case "cancelled":
                return TaskFault("cancelled", "cancelled", "cancelled on request")
            case "card_lost":
                return TaskFault("infra", "card_lost", "its card was lost while it ran")
            case "stopping" | "yielded" | "requeued":
                return Released()
