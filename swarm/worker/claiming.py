"""What a worker wants to claim: lanes for every free slot, nothing that is paused or another's; and why it gets nothing."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from swarm.clock import parse_iso
from swarm.core.claim import Claim
from swarm.core.explain.monitor import IdleReason, idle_reason, suits
from swarm.core.lanes import parse_lane, preference
from swarm.core.pauses import Pause, Pauses
from swarm.core.policy.retry import last_broke, runs_alone
from swarm.core.policy.slots import Held, SlotLimits, free_classes
from swarm.core.task import TaskClass
from swarm.errors import StorageFault
from swarm.runtime.ports import Clock, Transaction, WorkerQueue
from swarm.worker.heartbeat import WorkerState
from swarm.worker.slots import Running

IDLE_LOOK_S = 1.0
"""Why nothing suits is worked out at most this often …"""
IDLE_LOOK_SHARE = 300.0
"""… and less often where counting is slow: it may take one part in so many of the time."""
PUT_ASIDE = 200
"""Tasks of paused batches put aside in one turn at most."""
LEFT_TO_OTHERS_S = 15.0
"""So long after a request broke this server it is left to other workers, where there are any."""
LEFT_AGAIN_S = 2.0

Closed = Callable[[Sequence[Held]], str]
"""Given the tasks that hold a slot: why no work for the model server may start now; empty if some may."""


class Claimed:
    """What one transaction claimed, by what becomes of it."""

    def __init__(self) -> None:
        self.kept: list[Claim] = []
        self.paused: list[Claim] = []
        """Of paused batches: they take no slot and are put aside."""
        self.left: list[Claim] = []
        """They broke the server here: they take no slot and go back for another worker to try."""
        self.lanes: tuple[str, ...] = ()
        """What could be claimed next; none where no slot is free."""


FIRST_S = 0.1
CAP_S = 5.0


class StorageCare:
    """Owned by the work loop. ``trouble`` is empty while the disk does what it is asked."""

    def __init__(self, *, clock: Clock, log: logging.Logger) -> None:
        self.trouble = ""
        self._clock = clock
        self._log = log
        self._pause_s = FIRST_S
        self._again_s = 0.0

    @property
    def may_try(self) -> bool:
        """No trouble, or long enough since the last try."""
        return not self.trouble or self._clock.mono_s() >= self._again_s

    @property
    def wait_s(self) -> float:
        """Seconds until the next try."""
        return max(0.0, self._again_s - self._clock.mono_s()) if self.trouble else 0.0

    def failed(self, fault: StorageFault, meanwhile: str) -> None:
        """The disk refused."""
        if fault.message != self.trouble:
            self._log.error("The disk refuses: %s; %s until it works again", fault.message, meanwhile)
        self.trouble = fault.message
        self._again_s = self._clock.mono_s() + self._pause_s
        self._pause_s = min(CAP_S, self._pause_s * 2)

    def worked(self) -> None:
        """The disk did as asked."""
        if self.trouble:
            self._log.info("The disk works again")
            self.trouble = ""
            self._pause_s = FIRST_S


class Claimer:
    """Owned by the work loop."""

    def __init__(
        self,
        queue: WorkerQueue,
        *,
        limits: SlotLimits,
        state: WorkerState,
        running: Running,
        storage: StorageCare,
        clock: Clock,
        log: logging.Logger,
    ) -> None:
        self._queue = queue
        self._limits = limits
        self._state = state
        self._running = running
        self._storage = storage
        self._clock = clock
        self._log = log
        self._look_s = 0.0
        self._idle_key = ""
        self.idle_text = ""

    def claim(self, transaction: Transaction, held: Sequence[Held], closed: Closed) -> Claimed | None:
        """Claim for every slot that is free beside what is ``held``; None while the worker is paused.

        Raises ``StorageFault``.
        """
        pauses = self._queue.pauses()
        pause = pauses.worker(self._state.name)
        if pause is not None:
            self._rest(pause)
            return None
        claimed, held = Claimed(), list(held)
        claimed.lanes = self._lanes(held, pauses, closed)
        while claimed.lanes and len(claimed.paused) + len(claimed.left) < PUT_ASIDE:
            claim = transaction.claim(claimed.lanes)
            if claim is None:
                break
            if pauses.batch(claim.task.batch_id) is not None:
                claimed.paused.append(claim)
            elif claim.attempts and self._left_to_others(claim):
                claimed.left.append(claim)
            else:
                claimed.kept.append(claim)
                held.append(_held(claim))
                claimed.lanes = self._lanes(held, pauses, closed)
        return claimed

    def _lanes(self, held: Sequence[Held], pauses: Pauses, closed: Closed) -> tuple[str, ...]:
        classes = free_classes(self._limits, held, server_open=not closed(held))
        free = tuple(c for c in classes if c in self._running.classes)
        lanes = preference(worker=self._state.name, model=self._state.model, free=free)
        return tuple(lane for lane in lanes if not _lane_paused(lane, pauses)) if pauses.pauses else lanes

    def took(self, claimed: Claimed, closed: str) -> None:
        """Put aside, once the claims are on record, what may not run. ``closed``: why no work for the server is taken."""
        for claim in claimed.paused:
            self._put_aside(claim)
        for claim in claimed.left:
            self._leave(claim)
        kept = claimed.kept
        for claim in kept:
            task = claim.task
            name = task.name or task.custom_id or "unnamed"
            self._log.info("Claimed %s task: %s (%s)", task.task_class, task.task_id, name)
        if kept:
            self._idle_key = self.idle_text = ""
            self._state.count(claims=len(kept))
        elif claimed.lanes:
            self._note_idle(claimed.lanes, closed)

    def _put_aside(self, claim: Claim) -> None:
        try:
            self._queue.hold(claim)
        except StorageFault as fault:  # it goes back to its lane before anything else is claimed
            self._storage.failed(fault, "nothing is claimed")
            return
        self._log.debug("Put aside: %s (its batch %s is paused)", claim.task.task_id, claim.task.batch_id)

    def _left_to_others(self, claim: Claim) -> bool:
        """Only for a while: the others may all be busy, and it has to end some day."""
        broke = last_broke(claim.attempts, claim.attempt, self._state.name)
        if broke is None:
            return False
        ago_s = parse_iso(self._clock.iso()) - parse_iso(broke)
        try:
            return 0 <= ago_s < LEFT_TO_OTHERS_S and bool(self._queue.peers(claim.task.model or ""))
        except StorageFault:  # nobody knows of others: it is tried here
            return False

    def _leave(self, claim: Claim) -> None:
        try:
            self._queue.retry(claim, claim.attempts, delay_s=LEFT_AGAIN_S, counts=False)
        except StorageFault as fault:  # as above
            self._storage.failed(fault, "nothing is claimed")
            return
        self._log.debug("Left to another worker: %s (it broke the server here)", claim.task.task_id)

    def _rest(self, pause: Pause) -> None:
        if self._idle_key != pause.words:
            self._log.info("Paused: %s", pause.words)
        self._idle_key, self.idle_text = pause.words, f"paused: {pause.words}"

    def _note_idle(self, lanes: tuple[str, ...], closed: str) -> None:
        """INFO when the reason changes, DEBUG each time it is looked into; polls in between are silent."""
        now_s = self._clock.mono_s()
        if self._running.runs or now_s < self._look_s:
            return
        reason = self._idle_reason(lanes, closed)
        took_s = self._clock.mono_s() - now_s
        self._look_s = now_s + max(IDLE_LOOK_S, took_s * IDLE_LOOK_SHARE)
        if reason is None:
            return
        self._log.log(logging.DEBUG if reason.key == self._idle_key else logging.INFO, "%s", reason.line)
        self._idle_key, self.idle_text = reason.key, reason.text

    def _idle_reason(self, lanes: tuple[str, ...], closed: str) -> IdleReason | None:
        """None: something suits; it came just now, or another worker is about to get it."""
        try:
            waiting = self._queue.waiting()
        except StorageFault as fault:  # claiming works, or the exchange would have said so
            return IdleReason("unseen", f"No suitable tasks found: {fault.message}", fault.message)
        if suits(waiting, lanes):
            return None
        return idle_reason(waiting, worker=self._state.name, model=self._state.model, closed=closed)


def _held(claim: Claim) -> Held:
    return Held(claim.task, alone=runs_alone(claim.attempts, claim.attempt), begun=False)


def _lane_paused(lane: str, pauses: Pauses) -> bool:
    parsed = parse_lane(lane)
    return parsed is not None and parsed[0] is TaskClass.LLM and pauses.model(parsed[1]) is not None
