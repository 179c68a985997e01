"""What passes between a worker and the queue in one turn: results go out, tasks come in."""

from __future__ import annotations

from collections.abc import Sequence

from swarm.core.claim import Claim, Finish
from swarm.errors import StorageFault
from swarm.runtime.ports import Clock, WorkerQueue
from swarm.worker.attempt import Run
from swarm.worker.claiming import Claimer, Closed, Wishes
from swarm.worker.outcomes import Back, Closing, Settled, Settler
from swarm.worker.slots import Running
from swarm.worker.stats import ModelLedger
from swarm.worker.storage_care import StorageCare


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
        wishes = None if draining else self._claimer.wishes(held, closed)
        finishes = [closing.act for closing in closings if isinstance(closing.act, Finish)]
        if wishes is None and not finishes:
            return draining
        got = self._queue.exchange(finishes, wishes or _nothing)
        for closing, done in zip(closings, got.done, strict=True):
            self._settled(closing, self._settler.settled(closing, done=done))
        if got.fault is None:
            self._storage.worked()
        else:
            self._storage.failed(got.fault, "nothing is claimed")
        return draining if wishes is None else self._take(wishes, got.claims, closed(held))

    def _take(self, wishes: Wishes, claims: Sequence[Claim], closed: str) -> bool:
        for claim in self._claimer.took(wishes, claims, closed):
            self._running.take(claim)
            self._ledger.claimed(claim, self._clock.iso())
        return wishes.full

    def _settled(self, closing: Closing, outcome: Settled) -> None:
        self._closings.remove(closing)
        self._running.drop(closing.run)
        self._ledger.settled(closing.run, outcome)


def _nothing(_taken: Sequence[Claim]) -> tuple[str, ...]:
    return ()
