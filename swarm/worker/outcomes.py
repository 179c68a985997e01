"""What becomes of an attempt that ended: on record as completed, failed or cancelled, tried again, or given back.

What passes between a worker and the queue in one turn: results go out, tasks come in.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import NamedTuple

import msgspec

from swarm.config.settings import RetrySettings
from swarm.core.claim import Finish, Settled
from swarm.core.faults import TaskFault
from swarm.core.policy.retry import Again, Cancelled, GiveUp, Verdict, after_fault, blamed_at
from swarm.core.task import Attempt, Outcome, Task, TaskClass, TaskError, TaskState, Trail
from swarm.errors import StorageFault
from swarm.runtime.ports import Clock, WorkerQueue
from swarm.worker.attempt import Released, Run
from swarm.worker.claiming import Claimed, Claimer, Closed, StorageCare
from swarm.worker.slots import Running
from swarm.worker.stats import ModelLedger

_MESSAGE_CHARS = 2000
_RETRYABLE = ("infra", "transient", "suspect")


class Back(NamedTuple):
    """The task goes back to its lane: with its history after a fault, or (None) untouched."""

    again: Again | None = None
    attempts: tuple[Attempt, ...] = ()


class Closing(NamedTuple):
    """What is to become of an ended run. Decided once: saying the same again is how a failed write is made good."""

    run: Run
    outcome: Outcome
    act: Finish | Back
    verdict: Verdict | None = None
    """For a fault: what was decided, and why."""


class Settler:
    """Decides by ``swarm.core.policy.retry``, says what goes back to the queue and what came of it."""

    def __init__(
        self,
        queue: WorkerQueue,
        *,
        worker: str,
        gpu: str | None,
        retry: RetrySettings,
        clock: Clock,
        jitter: Callable[[], float],
        log: logging.Logger,
    ) -> None:
        self._queue = queue
        self._worker = worker
        self._gpu = gpu
        self._retry = retry
        self._clock = clock
        self._jitter = jitter
        self._log = log

    def close(self, run: Run, *, digest: str | None) -> Closing:
        """Decide what becomes of ``run``."""
        match run.ending:
            case Trail() as trail:
                attempt = self._attempt(run, "completed", digest)
                ended = msgspec.structs.replace(
                    trail, status="completed", completed_at=attempt.ended_at, attempts=(*run.claim.attempts, attempt)
                )
                return Closing(run, "completed", Finish(run.claim, TaskState.COMPLETED, ended))
            case TaskFault() as fault:
                return self._faulted(run, fault, digest)
            case Released() | None:
                return Closing(run, "released", Back())

    def give_back(self, closing: Closing, back: Back) -> Settled:
        """Put the task back into its lane, and say so. ``fenced``: too late. Raises ``StorageFault``: say it again."""
        claim = closing.run.claim
        if back.again is None:
            done = self._queue.release(claim)
        else:
            done = self._queue.retry(claim, back.attempts, delay_s=back.again.delay_s, counts=back.again.counts)
        return self.settled(closing, done=done)

    def settled(self, closing: Closing, *, done: bool) -> Settled:
        """Say what came of it. ``fenced``: it came too late and changed nothing."""
        if not done:
            self._log.warning(
                "Fenced: task %s was taken back from this worker; the late result of attempt %d is set aside",
                closing.run.claim.task.task_id,
                closing.run.claim.attempt,
            )
            return "fenced"
        self._tell(closing)
        return closing.outcome

    def _faulted(self, run: Run, fault: TaskFault, digest: str | None) -> Closing:
        claim = run.claim
        verdict = after_fault(
            fault=fault.fault,
            kind=fault.kind,
            task=claim.task,
            attempt=claim.attempt,
            attempts=claim.attempts,
            settings=self._retry,
            jitter=self._jitter(),
            worker=self._worker,
            message=fault.message,
            others=fault.fault != "poison" or self._others(claim.task),
        )
        error = TaskError(fault.kind, fault.message[:_MESSAGE_CHARS], retryable=fault.fault in _RETRYABLE)
        outcome = _outcome(verdict)
        attempt = self._attempt(run, outcome, digest, fault=fault, error=error)
        attempts = (*claim.attempts, attempt)
        act: Finish | Back
        match verdict:
            case Again() as again:
                act = Back(again, attempts)
            case GiveUp():
                last = TaskError("poison", verdict.reason[:_MESSAGE_CHARS]) if fault.fault == "poison" else error
                trail = Trail(
                    status="failed",
                    completed_at=attempt.ended_at,
                    result=fault.result,
                    error=last,
                    attempts=attempts,
                )
                act = Finish(claim, TaskState.FAILED, trail)
            case Cancelled():
                trail = Trail(status="cancelled", completed_at=attempt.ended_at, error=error, attempts=attempts)
                act = Finish(claim, TaskState.CANCELLED, trail)
        return Closing(run, outcome, act, verdict)

    def _others(self, task: Task) -> bool:
        """Whether another worker could try it; if that cannot be read, as if there were one."""
        try:
            return bool(self._queue.peers(task.model or ""))
        except StorageFault:
            return True

    def _attempt(
        self,
        run: Run,
        outcome: Outcome,
        digest: str | None,
        *,
        fault: TaskFault | None = None,
        error: TaskError | None = None,
    ) -> Attempt:
        return Attempt(
            attempt=run.claim.attempt,
            worker=self._worker,
            gpu=self._gpu,
            model_digest=digest,
            started_at=run.started_at,
            ended_at=self._clock.iso(),
            outcome=outcome,
            fault=None if fault is None else fault.fault,
            error=error,
            alone=fault is not None and fault.alone,
        )

    def _tell(self, closing: Closing) -> None:
        """Messages about a request or program may quote its input, so only their kind is logged; those of hosts may show."""
        run = closing.run
        fault = run.ending if isinstance(run.ending, TaskFault) else None
        ours = fault is not None and (fault.fault == "infra" or run.claim.task.task_class is TaskClass.RESOURCE)
        detail = f" ({fault.message[:300]})" if fault is not None and ours else ""
        match closing.verdict:
            case None if closing.outcome == "released":
                self._log.info("Released %s: it goes back untouched", _named(run))
            case None:
                self._log.info("Completed %s in %.2fs", _named(run), run.elapsed_s)
                for worker in blamed_at(run.claim.attempts, run.claim.attempt):
                    self._log.warning("Answered here: %s, which had broken the server of %s", _named(run), worker)
            case Again(delay_s=delay_s, reason=reason):
                self._log.warning("Retrying %s in %.1fs - %s%s", _named(run), delay_s, reason, detail)
            case GiveUp(reason=reason):
                kind = "" if fault is None else fault.fault
                why = reason.partition(" (")[0] if kind == "poison" else reason
                self._log.error("Failed %s - %s fault, %s%s", _named(run), kind, why, detail)
            case Cancelled():
                self._log.info("Cancelled %s after %.2fs", _named(run), run.elapsed_s)


def _outcome(verdict: Verdict) -> Outcome:
    match verdict:
        case Again():
            return "retried"
        case GiveUp():
            return "failed"
        case Cancelled():
            return "cancelled"


def _named(run: Run) -> str:
    task = run.claim.task
    return f"{task.task_class} task: {task.task_id} ({task.name or 'unnamed'})"


class Exchange:
    """Owned by the work loop. While the disk refuses, results stay in memory and nothing new is claimed."""

    def __init__(
        self,
        queue: WorkerQueue,
        *,
        claimer: Claimer,
        settler: Settler,
        running: Running,
        ledger: ModelLedger,
        storage: StorageCare,
        clock: Clock,
    ) -> None:
        self._queue = queue
        self._claimer = claimer
        self._settler = settler
        self._running = running
        self._ledger = ledger
        self._storage = storage
        self._clock = clock
        self._closings: list[Closing] = []

    def ended(self, run: Run) -> None:
        """Decide what becomes of a run that ended; the next turn tells the queue."""
        self._closings.append(self._settler.close(run, digest=self._ledger.digest(run)))

    def turn(self, closed: Closed, *, draining: bool) -> bool:
        """Give back, record, claim for every slot that is free then.

        True: no slot is free or nothing may be claimed; False: nothing suits.
        """
        if not self._storage.may_try:
            return True
        try:
            self._give_back()
            return self._record_and_claim(closed, draining=draining)
        except StorageFault as fault:
            self._storage.failed(fault, "results are kept in memory and nothing is claimed")
            self._closings = [*self._closings[1:], *self._closings[:1]]  # it may be this one's: next time another is first
            return True

    def _give_back(self) -> None:
        for closing in list(self._closings):
            if isinstance(closing.act, Back):
                self._settled(closing, self._settler.give_back(closing, closing.act))
                self._storage.worked()

    def _record_and_claim(self, closed: Closed, *, draining: bool) -> bool:
        closings = self._closings[:1] if self._storage.trouble else list(self._closings)  # a small one may fit a full disk
        ending = {id(closing.run) for closing in closings}
        held = [run.held for run in self._running.runs if id(run) not in ending]
        finishes = [closing.act for closing in closings if isinstance(closing.act, Finish)]
        if draining and not finishes:
            return True
        with self._queue.transaction() as transaction:
            for finish in finishes:
                transaction.finish(*finish)
            claimed = None if draining else self._claimer.claim(transaction, held, closed)
        for closing, done in zip(closings, transaction.recorded, strict=True):
            self._settled(closing, self._settler.settled(closing, done=done))
        if transaction.fault is None:
            self._storage.worked()
        else:
            self._storage.failed(transaction.fault, "nothing is claimed")
        return draining if claimed is None else self._take(claimed, closed(held))

    def _take(self, claimed: Claimed, closed: str) -> bool:
        self._claimer.took(claimed, closed)
        for claim in claimed.kept:
            self._running.take(claim)
            self._ledger.claimed(claim, self._clock.iso())
        return not claimed.lanes

    def _settled(self, closing: Closing, outcome: Settled) -> None:
        self._closings.remove(closing)
        self._running.drop(closing.run)
        self._ledger.settled(closing.run, outcome)
