"""A worker's exchange with the queue, once per tick: requeue, record outcomes, claim.

* Outcomes and claims of one tick are one transaction. While the disk refuses, outcomes stay in memory, nothing is claimed.
* A claim that was reclaimed meanwhile is fenced: its late outcome changes nothing.
* Claimed is what a free slot can run; nothing that is paused, and no request that broke this server a moment ago.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic

import msgspec

from swarm.clock import now_iso, parse_iso
from swarm.core.explain.idle import IdleReason, idle_reason, suits
from swarm.core.lanes import Pauses, parse_lane, preference
from swarm.core.policy.retry import Again, last_broke
from swarm.core.policy.slots import Occupancy, free_classes
from swarm.core.task import Claim, Settled, TaskClass, TaskState
from swarm.errors import StorageFault
from swarm.runtime.logging import LogOnce
from swarm.runtime.ports import QueueTransaction
from swarm.worker.attempt import Run, held_claim
from swarm.worker.heartbeat import WorkerState
from swarm.worker.live.live_gate import LiveGate
from swarm.worker.outcomes import Closing, Outcomes
from swarm.worker.parts import WorkerParts
from swarm.worker.slots import Slots
from swarm.worker.tuning.slot_tuner import SlotTuner

IDLE_LOOK_S = 1.0
"""Why nothing suits is worked out at most this often …"""
IDLE_LOOK_SHARE = 300.0
"""… and less often where counting is slow: it may take one part in so many of the time."""
MOST_UNWANTED = 200
"""Tasks claimed in one tick at most that cannot run here now."""
LEFT_TO_OTHERS_S = 15.0
"""So long after a request broke this server it is left to other workers, where there are any."""
LEFT_AGAIN_S = 2.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 5.0
"""Between tries while the disk refuses."""

Closed = Callable[[Occupancy], str]
"""Given what is held: why no work for the model server may start now; empty if some may."""


@dataclass
class Claimed:
    """What one transaction claimed."""

    kept: list[Claim] = field(default_factory=list)
    unwanted: list[tuple[Claim, Callable[[Claim], None]]] = field(default_factory=list)
    """What cannot run here now, and how it is put away."""
    lanes: tuple[str, ...] = ()
    """What was wanted last."""
    full: bool = False
    """No slot is free any more, or nothing may be claimed."""


class DiskTrouble:
    """A disk that refuses: ``words`` say how, empty while it works; it is tried again after a growing pause."""

    def __init__(self, log: logging.Logger) -> None:
        self.words = ""
        self._log_once = LogOnce(log)
        self._pause_s = FIRST_PAUSE_S
        self._again_s = 0.0

    @property
    def wait_s(self) -> float:
        """Seconds until the next try."""
        return max(0.0, self._again_s - monotonic()) if self.words else 0.0

    def failed(self, fault: StorageFault) -> None:
        """Record that the disk refused."""
        self.words = fault.message
        line = f"The disk refuses: {self.words}; results are kept in memory and nothing is claimed until it works again"
        self._log_once.failing("disk", line, logging.ERROR)
        self._again_s = monotonic() + self._pause_s
        self._pause_s = min(LONGEST_PAUSE_S, self._pause_s * 2)

    def worked(self, line: str = "The disk works again") -> None:
        """Record that the disk works, or, by this ``line``, why nothing is held against it any more."""
        if self.words:
            self.words, self._pause_s = "", FIRST_PAUSE_S
            self._log_once.working("disk", line)


class Exchange:
    """Owned by the work loop."""

    def __init__(
        self, parts: WorkerParts, state: WorkerState, slots: Slots, tuner: SlotTuner, live: LiveGate | None = None
    ) -> None:
        self._queue = parts.queue
        self._log = parts.log
        self._tuner = tuner
        self._pack_size = parts.pack_size
        self._state = state
        self._slots = slots
        self._live = live
        self._worker = state.beat.name
        self._outcomes = Outcomes(parts, self._worker)
        self._closings: list[Closing] = []
        self._idle_key = ""
        self._idle_look_s = 0.0
        self.idle_text = ""
        """Why it has nothing to do, for operators."""
        self.paused = ""
        """Why an operator has paused this worker; empty if none has."""
        self.disk = DiskTrouble(parts.log)

    def ended(self, run: Run) -> None:
        """Decide what becomes of a run that ended; the next tick puts it on record."""
        self._closings.append(self._outcomes.close(run, digest=self._state.digest(run)))

    def tick(self, closed: Closed, *, draining: bool) -> bool:
        """Requeue, record, claim for every slot that is free then.

        True: no slot is free or nothing may be claimed; False: nothing suits.
        """
        if self.disk.wait_s > 0:
            return True
        try:
            self._requeue()
            return self._record_and_claim(closed, draining=draining)
        except StorageFault as fault:
            self.disk.failed(fault)
            self._closings = [*self._closings[1:], *self._closings[:1]]  # it may be this one's: next time another is first
            return True

    # -- outcomes ----------------------------------------------------------------------------------------------------

    def _requeue(self) -> None:
        for closing in [one for one in self._closings if one.trail is None]:
            claim = closing.run.claim
            if isinstance(again := closing.verdict, Again):
                done = self._queue.retry(claim, closing.attempts, delay_s=again.delay_s, counts=again.counts)
            else:
                done = self._queue.release(claim)
            self._settle(closing, done=done)
            self.disk.worked()

    def _record_and_claim(self, closed: Closed, *, draining: bool) -> bool:
        closings = self._closings[:1] if self.disk.words else list(self._closings)  # a small one may fit a full disk
        pauses = Pauses() if draining else self._queue.pauses()
        resting = draining or self._rests(pauses)
        if resting and not closings:
            self.disk.worked("Nothing is asked of the disk any more")  # else it would refuse for as long as this rests
            return draining
        ending = {id(closing.run) for closing in closings}
        held = Occupancy(run.held() for run in self._slots.runs if id(run) not in ending)
        claimed = Claimed(full=draining)
        with self._queue.transaction() as transaction:
            for closing in closings:
                assert closing.trail is not None
                transaction.finish(closing.run.claim, TaskState(closing.outcome), closing.trail)
            if not resting:
                self._claim(transaction, held, closed, pauses, claimed)
        for closing, done in zip(closings, transaction.recorded, strict=True):
            self._settle(closing, done=done)
        if transaction.fault is None:
            self.disk.worked()
        else:
            self.disk.failed(transaction.fault)
        self._take(claimed)
        if not (resting or claimed.full or self._slots.runs):
            self._note_idle(claimed.lanes, closed(held))
        return claimed.full

    def _settle(self, closing: Closing, *, done: bool) -> None:
        outcome: Settled = closing.outcome if done else "fenced"
        if done:
            self._outcomes.log_settled(closing)
        else:
            self._outcomes.log_fenced(closing)
        self._closings.remove(closing)
        self._slots.drop(closing.run)
        self._state.settled(closing.run, outcome)

    # -- claims ------------------------------------------------------------------------------------------------------

    def _claim(
        self, transaction: QueueTransaction, held: Occupancy, closed: Closed, pauses: Pauses, claimed: Claimed
    ) -> None:
        """Claim for every free slot; what is kept is held from then on."""
        while len(claimed.unwanted) < MOST_UNWANTED:
            claimed.lanes = self._lanes(held, closed, pauses)
            if not claimed.lanes:
                break
            claim = transaction.claim(claimed.lanes, spread=self._tuner.slot_each)
            if claim is None:
                return
            if pauses.batch(claim.task.batch_id) is not None:
                claimed.unwanted.append((claim, self._hold))
            elif self._is_left_to_others(claim):
                claimed.unwanted.append((claim, self._leave))
            else:
                claimed.kept.append(claim)
                held.add(held_claim(claim))
        claimed.full = True

    def _lanes(self, held: Occupancy, closed: Closed, pauses: Pauses) -> tuple[str, ...]:
        """The lanes to claim from beside what is held, best first."""
        limits = self._tuner.limits if self._live is None else self._live.left_for_batches(self._tuner.limits)
        limits = msgspec.structs.replace(limits, pack=self._pack_size())
        classes = free_classes(limits, held, server_open=not closed(held))
        free = tuple(c for c in classes if c in self._slots.classes)
        lanes = preference(worker=self._worker, model=self._state.beat.model, free=free)
        return tuple(lane for lane in lanes if not _lane_paused(lane, pauses)) if pauses.pauses else lanes

    def _is_left_to_others(self, claim: Claim) -> bool:
        """Only for a while: the others may all be busy, and it has to end some day."""
        broke = last_broke(claim.attempts, claim.attempt, self._worker)
        if broke is None or not 0 <= parse_iso(now_iso()) - parse_iso(broke) < LEFT_TO_OTHERS_S:
            return False
        try:
            return bool(self._queue.peers(claim.task.model or ""))
        except StorageFault:
            return False

    def _take(self, claimed: Claimed) -> None:
        """Give slots to what was claimed; put away what cannot run here now."""
        for claim, put_away in claimed.unwanted:
            try:
                put_away(claim)
            except StorageFault as fault:
                self.disk.failed(fault)
        for claim in claimed.kept:
            task = claim.task
            self._log.info(
                "Claimed %s task: %s (%s)", task.task_class, task.task_id, task.name or task.custom_id or "unnamed"
            )
            self._slots.take(claim)
            self._state.claimed(claim)
        if claimed.kept:
            self._idle_key = self.idle_text = ""
            self._state.count(claims=len(claimed.kept))

    def _hold(self, claim: Claim) -> None:
        """Its batch is paused. If it cannot be held, it goes back to its lane before anything else is claimed."""
        self._queue.hold(claim)
        self._log.debug("Blocked: %s (its batch %s is paused)", claim.task.task_id, claim.task.batch_id)

    def _leave(self, claim: Claim) -> None:
        """It broke the server here. If it cannot be requeued, it takes a slot until it can."""
        try:
            self._queue.retry(claim, claim.attempts, delay_s=LEFT_AGAIN_S, counts=False)
        except StorageFault:
            self._slots.stop(self._slots.take(claim), "stopping")
            raise
        self._log.debug("Left to another worker: %s (it broke the server here)", claim.task.task_id)

    # -- why it idles ------------------------------------------------------------------------------------------------

    def _rests(self, pauses: Pauses) -> bool:
        """Whether this worker is paused."""
        pause = pauses.worker(self._worker)
        self.paused = "" if pause is None else f"paused: {pause.words}"
        if pause is None:
            return False
        if self._idle_key != pause.words:
            self._log.info("Paused: %s", pause.words)
        self._idle_key, self.idle_text = pause.words, self.paused
        return True

    def _note_idle(self, lanes: tuple[str, ...], closed: str) -> None:
        """INFO when the reason changes, DEBUG each time it is looked into; polls in between are silent."""
        now_s = monotonic()
        if now_s < self._idle_look_s:
            return
        reason = self._idle_reason(lanes, closed)
        took_s = monotonic() - now_s
        self._idle_look_s = now_s + max(IDLE_LOOK_S, took_s * IDLE_LOOK_SHARE)
        if reason is None:
            return
        self._log.log(logging.DEBUG if reason.key == self._idle_key else logging.INFO, "%s", reason.line)
        self._idle_key, self.idle_text = reason.key, reason.text

    def _idle_reason(self, lanes: tuple[str, ...], closed: str) -> IdleReason | None:
        """None: something suits; it came just now, or another worker is about to get it."""
        try:
            waiting = self._queue.waiting()
        except StorageFault as fault:  # claiming works, or the transaction would have said so
            return IdleReason("unseen", f"No suitable tasks found: {fault.message}", fault.message)
        if suits(waiting, lanes):
            return None
        return idle_reason(waiting, worker=self._worker, model=self._state.beat.model, closed=closed)


def _lane_paused(lane: str, pauses: Pauses) -> bool:
    parsed = parse_lane(lane)
    return parsed is not None and parsed[0] is TaskClass.LLM and pauses.model(parsed[1]) is not None
