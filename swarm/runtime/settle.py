"""Puts a finished attempt on record: completed, failed, cancelled, to be retried, or given back."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Literal

import msgspec

from swarm.core.faults import TaskFault
from swarm.core.retry import Again, Cancelled, GiveUp, Verdict, after_fault
from swarm.core.task import Attempt, Outcome, TaskClass, TaskError, TaskState, Trail
from swarm.runtime.attempt import Released, Run
from swarm.runtime.ports import Clock, WorkerQueue
from swarm.settings import RetrySettings

_MESSAGE_CHARS = 2000

Settled = Outcome | Literal["fenced"]


class Settler:
    """Decides by ``swarm.core.retry`` and tells the queue. Knows nothing of slots."""

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

    def settle(self, run: Run, *, digest: str | None) -> Settled:
        """Record how ``run`` ended. ``fenced``: it came too late and changed nothing. Raises ``StorageFault``: try again."""
        match run.ending:
            case Trail() as trail:
                outcome, done = self._completed(run, trail, digest)
            case TaskFault() as fault:
                outcome, done = self._faulted(run, fault, digest)
            case Released() | None:
                outcome, done = self._released(run)
        if not done:
            self._log.warning(
                "Fenced: task %s was taken back from this worker; the late result of attempt %d is set aside",
                run.claim.task.task_id,
                run.claim.attempt,
            )
            return "fenced"
        return outcome

    def _completed(self, run: Run, trail: Trail, digest: str | None) -> tuple[Outcome, bool]:
        attempt = self._attempt(run, "completed", digest)
        whole = msgspec.structs.replace(
            trail, status="completed", completed_at=attempt.ended_at, attempts=(*run.claim.attempts, attempt)
        )
        done = self._queue.finish(run.claim, TaskState.COMPLETED, whole)
        if done:
            self._log.info("Completed %s in %.2fs", _named(run), run.elapsed_s)
        return "completed", done

    def _faulted(self, run: Run, fault: TaskFault, digest: str | None) -> tuple[Outcome, bool]:
        claim = run.claim
        verdict = after_fault(
            fault=fault.fault,
            kind=fault.kind,
            task=claim.task,
            attempt=claim.attempt,
            attempts=claim.attempts,
            settings=self._retry,
            jitter=self._jitter(),
        )
        error = TaskError(fault.kind, fault.message[:_MESSAGE_CHARS], retryable=fault.fault in ("infra", "transient"))
        outcome = _outcome(verdict)
        attempt = self._attempt(run, outcome, digest, fault=fault, error=error)
        attempts = (*claim.attempts, attempt)
        match verdict:
            case Again(delay_s=delay_s, counts=counts):
                done = self._queue.retry(claim, attempts, delay_s=delay_s, counts=counts)
            case GiveUp():
                trail = Trail(
                    status="failed",
                    completed_at=attempt.ended_at,
                    result=fault.result,
                    error=error,
                    attempts=attempts,
                )
                done = self._queue.finish(claim, TaskState.FAILED, trail)
            case Cancelled():
                trail = Trail(status="cancelled", completed_at=attempt.ended_at, error=error, attempts=attempts)
                done = self._queue.finish(claim, TaskState.CANCELLED, trail)
        if done:
            self._tell(run, fault, verdict)
        return outcome, done

    def _released(self, run: Run) -> tuple[Outcome, bool]:
        done = self._queue.release(run.claim)
        if done:
            self._log.info("Released %s: the worker stops", _named(run))
        return "released", done

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
        )

    def _tell(self, run: Run, fault: TaskFault, verdict: Verdict) -> None:
        """Messages about a request or program may quote its input, so only their kind is logged; those of hosts may show."""
        ours = fault.fault == "infra" or run.claim.task.task_class is TaskClass.RESOURCE
        detail = f" ({fault.message[:300]})" if ours else ""
        match verdict:
            case Again(delay_s=delay_s, reason=reason):
                self._log.warning("Retrying %s in %.1fs - %s%s", _named(run), delay_s, reason, detail)
            case GiveUp(reason=reason):
                self._log.error("Failed %s - %s fault, %s%s", _named(run), fault.fault, reason, detail)
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
