"""Carries out the brain's decisions, one at a time, and logs them.

* This is the only place where the brain changes anything outside itself.
* The owner of each thing checks again: a decision whose facts have changed is ``Stale`` and does nothing.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import msgspec

from swarm.config.settings import Settings
from swarm.core.placement.demand import load_document
from swarm.core.policy.decisions import (
    AdvanceMap,
    CancelChildren,
    Decision,
    FailBlocked,
    FileDropIn,
    KillWorker,
    LoadModel,
    Purge,
    PurgeBatches,
    RecoverWorker,
    ReleaseTask,
    StopBatch,
    Warn,
    WithdrawResource,
)
from swarm.errors import DuplicateTask, EngineError, QueueError
from swarm.runtime.logging import LogOnce
from swarm.runtime.ports import BrainQueue

_MAX_AGAIN = 99
"""Of one load's id."""


Killer = Callable[[str, int], bool]
"""``kill(worker, epoch)``: SIGKILL that life of that worker. False: it has ended already. Raises ``EngineError``."""
_MAX_NOTES = 1000


class _Outcome(msgspec.Struct, frozen=True):
    decision: Decision
    detail: str


class Applied(_Outcome, frozen=True):
    """It was done; ``detail`` is what was logged."""


class Stale(_Outcome, frozen=True):
    """The facts had changed; nothing was done."""


class Failed(_Outcome, frozen=True):
    """It could not be done now (a full disk, a process that may not be killed); it is retried while it is due."""


Outcome = Applied | Stale | Failed


class Effects:
    """Used by the brain's one thread."""

    def __init__(
        self,
        queue: BrainQueue,
        kill: Killer,
        settings: Settings,
        log: logging.Logger,
        mono_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._queue = queue
        self._kill = kill
        self._log = log
        self._troubles = LogOnce(log)
        self._mono_s = mono_s
        self._believe_s = 2 * settings.worker.heartbeat_s + 1.0
        """How old what a worker says of itself may be."""
        self._refused_s: dict[str, float] = {}
        """Since when the id of a load is refused."""
        self._killed: set[tuple[str, int]] = set()
        self.reclaimed = 0
        """Tasks reclaimed from dead workers so far."""

    def apply(self, decision: Decision) -> Outcome:
        """Carry out one decision. A refusal by queue or process is an answer, logged when it changes; bugs are raised."""
        subject = _subject(decision)
        try:
            outcome = self._apply(decision)
        except (QueueError, EngineError, OSError) as fault:  # it is about this one thing: the others go on
            self._troubles.failing(subject, f"Could not {subject}: {fault}", logging.ERROR)
            return Failed(decision, str(fault))
        self._troubles.working(subject, f"Possible again: {subject}")
        if isinstance(outcome, Stale):
            self._log.debug("Stale: %s (%s)", subject, outcome.detail)
        return outcome

    def forget_undecided(self, decisions: tuple[Decision, ...]) -> None:
        """Drop notes on what is no longer decided, so that nothing grows without bound."""
        self._troubles.keep_only({_subject(d) for d in decisions})
        loads = {d.task_id for d in decisions if isinstance(d, LoadModel)}
        self._refused_s = {task_id: since_s for task_id, since_s in self._refused_s.items() if task_id in loads}
        if len(self._killed) > _MAX_NOTES:
            self._killed.clear()

    def _apply(self, decision: Decision) -> Outcome:  # noqa: C901, PLR0911, PLR0912 - one answer per kind of decision
        match decision:
            case FileDropIn():
                return self._done(decision, self._queue.file_drop_in(decision.file_name))
            case RecoverWorker():
                return self._recover(decision)
            case KillWorker():
                return self._kill_worker(decision)
            case LoadModel():
                return self._load(decision)
            case WithdrawResource():
                moved = self._queue.withdraw(decision.task_id, decision.reason)
                return self._moved(decision, f"Withdrew {decision.task_id}: {decision.reason}" if moved else None)
            case ReleaseTask():
                moved = self._queue.release_blocked(decision.task_id, decision.attempt)
                return self._moved(decision, f"Released {decision.task_id}: {decision.reason}" if moved else None)
            case FailBlocked():
                moved = self._queue.fail_blocked(decision.task_id, decision.attempt, decision.reason)
                return self._moved(decision, f"Failed {decision.task_id}: {decision.reason}" if moved else None)
            case AdvanceMap():
                act = self._queue.expand_map if decision.step == "expand" else self._queue.gather_map
                return self._moved(decision, act(decision.task_id, decision.attempt))
            case StopBatch():
                return self._stop(decision)
            case CancelChildren():
                return self._cancel_children(decision)
            case Purge():
                return self._purge(decision)
            case PurgeBatches():
                return self._purge_batches(decision)
            case Warn():
                # Said by the announcer, which knows what has been said before.
                return Applied(decision, decision.reason)

    def _done(self, decision: Decision, line: str, *, level: int = logging.INFO) -> Applied:
        self._log.log(level, "%s", line)
        return Applied(decision, line)

    def _moved(self, decision: Decision, line: str | None) -> Outcome:
        return Stale(decision, "its state has changed") if line is None else self._done(decision, line)

    def _recover(self, decision: RecoverWorker) -> Outcome:
        lines = self._queue.recover(decision.worker)
        if lines is None:
            return Stale(decision, "its process lock is held: it lives")
        if not lines:
            return Stale(decision, "it held nothing any more")
        self.reclaimed += len(lines)
        self._log.warning("%s - requeued %d", decision.reason, len(lines))
        for line in lines:
            self._log.info("%s", line)
        return Applied(decision, "; ".join(lines))

    def _kill_worker(self, decision: KillWorker) -> Outcome:
        if not self._kill(decision.worker, decision.epoch):
            return Stale(decision, "that process has ended")
        # A process that does not die at once (uninterruptible sleep) is signalled each tick, and said once.
        again = (decision.worker, decision.epoch) in self._killed
        self._killed.add((decision.worker, decision.epoch))
        line = f"{decision.reason} - killing it, so that its tasks can be requeued"
        return self._done(decision, line, level=logging.DEBUG if again else logging.WARNING)

    def _purge(self, decision: Purge) -> Outcome:
        removed = 0
        for state, shard in decision.shards:
            left = decision.limit - removed
            if left <= 0:
                break
            removed += self._queue.purge(state, shard, older_than_s=decision.older_than_s, limit=left)
        if not removed:
            return Stale(decision, "all that remains is needed by waiting tasks")
        return self._done(decision, f"Purged {removed} finished tasks: {decision.reason}")

    def _purge_batches(self, decision: PurgeBatches) -> Outcome:
        gone = self._queue.purge_batches(older_than_s=decision.older_than_s)
        if not gone:
            return Stale(decision, "none of these")
        return self._done(decision, f"Removed {len(gone)} batches, {decision.reason}: {', '.join(gone[:8])}")

    def _stop(self, decision: StopBatch) -> Outcome:
        stopped = self._queue.stop_batch(decision.batch_id, decision.reason)
        if not stopped:
            return Stale(decision, "no task of it waits; running ones may finish")
        return self._done(decision, f"Cancelled {stopped} waiting tasks: {decision.reason}", level=logging.WARNING)

    def _cancel_children(self, decision: CancelChildren) -> Outcome:
        ended = self._queue.cancel_children(decision.task_id)
        if not ended:
            return Stale(decision, "none of them is left")
        return self._done(decision, f"Cancelled {ended} tasks: {decision.reason}")

    def _load(self, decision: LoadModel) -> Outcome:
        if decision.instead_of is not None and not self._queue.withdraw(decision.instead_of, decision.reason):
            return Stale(decision, f"{decision.instead_of} has been claimed")
        task_id = self._insert_load(decision)
        if task_id is None:
            return Stale(decision, f"{decision.task_id} exists")
        return self._done(decision, f"{decision.reason} for {decision.worker}: {decision.model} ({task_id})")

    def _insert_load(self, decision: LoadModel) -> str | None:
        """Its id; None while a task of that id exists that may still become visible as done.

        Right after a load ended, the heartbeat that says so may be a period old. An id that stays used beyond that
        belongs to a load that was withdrawn or cancelled before it ran, and the deficit has come back: number it on.
        """
        document = load_document(decision.worker, decision.model, decision.epoch, live=decision.live)
        for number in range(1, _MAX_AGAIN + 1):
            task_id = decision.task_id if number == 1 else f"{decision.task_id}-{number}"
            try:
                return self._queue.enqueue({"task_id": task_id, **document})
            except DuplicateTask:
                now_s = self._mono_s()
                if now_s - self._refused_s.setdefault(decision.task_id, now_s) < self._believe_s:
                    return None
        return None


def _subject(decision: Decision) -> str:
    """What it is about, to follow "could not"."""
    return decision.WORDS.format(decision)
