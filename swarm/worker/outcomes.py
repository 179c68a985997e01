"""What becomes of an ended attempt: completed, failed, cancelled, retried or requeued."""

from __future__ import annotations

from typing import Literal, NamedTuple

import msgspec

from swarm.clock import now_iso
from swarm.core.faults import TaskFault
from swarm.core.policy.retry import Again, Cancelled, GiveUp, Verdict, after_fault, blamed_at
from swarm.core.task import Attempt, Outcome, Task, TaskClass, TaskError, Trail
from swarm.errors import StorageFault
from swarm.worker.attempt import Released, Run
from swarm.worker.parts import WorkerParts

_MESSAGE_CHARS = 2000
_RETRYABLE = ("infra", "transient", "suspect")


class Closing(NamedTuple):
    """What is to become of an ended run. Decided once: saying the same again is how a failed write is made good."""

    run: Run
    outcome: Outcome
    trail: Trail | None = None
    """What is put on record; None: the task is requeued, as it was or (``again``) with its ``attempts``."""
    verdict: Verdict | None = None
    """For a fault: what was decided, and why."""
    attempts: tuple[Attempt, ...] = ()


class Outcomes:
    """Decides by ``swarm.core.policy.retry``, and logs what came of it."""

    def __init__(self, parts: WorkerParts, worker: str) -> None:
        self._parts = parts
        self._worker = worker

    def close(self, run: Run, *, digest: str | None) -> Closing:
        """Decide what becomes of ``run``."""
        match run.ending:
            case Trail() as trail:
                attempt = self._attempt(run, "completed", digest)
                attempts = (*run.claim.attempts, attempt)
                ended = msgspec.structs.replace(trail, status="completed", completed_at=attempt.ended_at, attempts=attempts)
                return Closing(run, "completed", ended)
            case TaskFault() as fault:
                return self._faulted(run, fault, digest)
            case Released() | None:
                return Closing(run, "released")

    def log_settled(self, closing: Closing) -> None:
        """Messages about a request or program may quote its input, so only their kind is logged; those of hosts may show."""
        run, log = closing.run, self._parts.log
        fault = run.ending if isinstance(run.ending, TaskFault) else None
        ours = fault is not None and (fault.fault == "infra" or run.claim.task.task_class is TaskClass.RESOURCE)
        detail = f" ({fault.message[:300]})" if fault is not None and ours else ""
        task = run.claim.task
        named = f"{task.task_class} task: {task.task_id} ({task.name or 'unnamed'})"
        match closing.verdict:
            case None if closing.outcome == "released":
                log.info("Released %s: requeued untouched", named)
            case None:
                log.info("Completed %s in %.2fs", named, run.elapsed_s)
                for worker in blamed_at(run.claim.attempts, run.claim.attempt):
                    log.warning("Answered here: %s, which had broken the server of %s", named, worker)
            case Again(delay_s=delay_s, reason=reason):
                log.warning("Retrying %s in %.1fs - %s%s", named, delay_s, reason, detail)
            case GiveUp(reason=reason):
                kind = "" if fault is None else fault.fault
                why = reason.partition(" (")[0] if kind == "poison" else reason
                log.error("Failed %s - %s fault, %s%s", named, kind, why, detail)
            case Cancelled():
                log.info("Cancelled %s after %.2fs", named, run.elapsed_s)

    def log_fenced(self, closing: Closing) -> None:
        """Log that the outcome came too late and changed nothing."""
        claim = closing.run.claim
        self._parts.log.warning(
            "Fenced: task %s no longer belongs to this worker; the late result of attempt %d is ignored",
            claim.task.task_id,
            claim.attempt,
        )

    def _faulted(self, run: Run, fault: TaskFault, digest: str | None) -> Closing:
        claim = run.claim
        verdict = after_fault(
            fault=fault.fault,
            kind=fault.kind,
            task=claim.task,
            attempt=claim.attempt,
            attempts=claim.attempts,
            settings=self._parts.settings.retry,
            jitter=self._parts.jitter(),
            worker=self._worker,
            message=fault.message,
            others=fault.fault != "poison" or self._others(claim.task),
        )
        error = TaskError(fault.kind, fault.message[:_MESSAGE_CHARS], retryable=fault.fault in _RETRYABLE)
        outcome: Literal["retried", "failed", "cancelled"]
        match verdict:
            case Again():
                outcome = "retried"
            case GiveUp():
                outcome = "failed"
            case Cancelled():
                outcome = "cancelled"
        attempt = self._attempt(run, outcome, digest, fault=fault, error=error)
        attempts = (*claim.attempts, attempt)
        if outcome == "retried":
            return Closing(run, outcome, None, verdict, attempts)
        if outcome == "failed" and fault.fault == "poison":
            error = TaskError("poison", verdict.reason[:_MESSAGE_CHARS])
        result = fault.result if outcome == "failed" else None
        trail = Trail(status=outcome, completed_at=attempt.ended_at, result=result, error=error, attempts=attempts)
        return Closing(run, outcome, trail, verdict)

    def _others(self, task: Task) -> bool:
        """Whether another worker could try it; if that cannot be read, as if there were one."""
        try:
            return bool(self._parts.queue.peers(task.model or ""))
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
            gpu=self._parts.gpu,
            model_digest=digest,
            started_at=run.started_at,
            ended_at=now_iso(),
            outcome=outcome,
            fault=None if fault is None else fault.fault,
            error=error,
            alone=fault is not None and fault.alone,
            energy_j=run.energy_j,
        )
