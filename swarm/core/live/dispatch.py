"""Live requests and places brought together: who goes to which worker, who waits, who has waited too long. Pure.

* Never more requests at a worker than its last heartbeat allows; what is in flight is counted here.
* A request waits only while no candidate has a free place for it.
* A worker that refused a request (it was busy, lost its model) is no candidate until its next heartbeat, or the end of the
  time that it named.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import msgspec

from swarm.core.lanes import Pauses
from swarm.core.live.demand import KEPT_S, ModelDemand
from swarm.core.live.routing import LiveWorker, PrefixMemory, Standing, choose, standing
from swarm.core.live.waiting import Ticket, WaitingQueue

BEATS_TO_TRUST = 2
"""A worker whose server failed a request is asked again, where no other can be, after so many heartbeats: the first may have
been written before it noticed."""


class _Held(msgspec.Struct, frozen=True):
    """Why a worker is no candidate for now."""

    moment: tuple[int, int]
    """Its last heartbeat then."""
    until_s: float | None
    """At the latest; None: not before the next one."""


class LiveDispatch:
    """Used by one thread. Times are seconds on the caller's monotonic clock."""

    def __init__(self, *, queue_max: int, max_wait_s: float) -> None:
        self.queue = WaitingQueue(queue_max=queue_max, max_wait_s=max_wait_s)
        self.workers: dict[str, LiveWorker] = {}
        self.starting = False
        self.pauses = Pauses()
        self._in_flight: Counter[str] = Counter()
        self._by_model: Counter[str] = Counter()
        self._ended_s: dict[str, float] = {}
        self._held: dict[str, _Held] = {}
        self._last: dict[str, int] = {}
        self._given = 0
        self._memory = PrefixMemory()

    def see(self, workers: Iterable[LiveWorker], pauses: Pauses, *, starting: bool) -> None:
        """How the workers are now, all of them. ``starting``: see ``routing.standing``."""
        self.pauses = pauses
        self.workers = {one.name: one for one in workers}
        self.starting = starting

    def standing(self, model: str) -> Standing:
        """What the swarm can do for a model now."""
        return standing(self.workers.values(), model, self.pauses, starting=self.starting)

    def in_flight(self, worker: str) -> int:
        """Live requests at this worker."""
        return self._in_flight[worker]

    def place_now(self, ticket: Ticket, now_s: float) -> str | None:
        """The worker that takes a new request at once; None where it has to wait."""
        if any(self.queue.in_turn(ticket.model)):
            return None
        return self._place(ticket, now_s)

    def assign(self, now_s: float) -> list[tuple[Ticket, str]]:
        """Who of those that wait goes where, now. Call it when a place was given back or workers have changed."""
        self._held = {name: held for name, held in self._held.items() if held.until_s is None or now_s < held.until_s}
        return [found for model in self.queue.models() for found in self._assign(model, now_s)]

    def give_back(self, ticket: Ticket, worker: str, now_s: float) -> None:
        """A request has left its worker."""
        self._in_flight[worker] -= 1
        self._by_model[ticket.model] -= 1
        self._ended_s[ticket.model] = now_s

    def hold(self, worker: str, now_s: float, for_s: float | None) -> None:
        """It refused a request: no candidate until its next heartbeat, and for so long at most."""
        known = self.workers.get(worker)
        if known is not None:
            self._held[worker] = _Held(known.moment, None if for_s is None else now_s + for_s)

    def avoid(self, ticket: Ticket, worker: str) -> None:
        """Its server failed this request, so that the next try is another's."""
        known = self.workers.get(worker)
        epoch, beat = (0, 0) if known is None else known.moment
        ticket.avoid, ticket.avoid_until = worker, (epoch, beat + BEATS_TO_TRUST)

    def next_s(self) -> float | None:
        """When to look again even if nothing happens: somebody will have waited too long, or a worker may be asked again."""
        ends = (held.until_s for held in self._held.values() if held.until_s is not None) if len(self.queue) else ()
        return min((at for at in (self.queue.next_end_s(), *ends) if at is not None), default=None)

    def demand(self, now_s: float) -> dict[str, ModelDemand]:
        """What live requests want, by model; one that nobody has used for ``KEPT_S`` is left out."""
        old = [model for model, at in self._ended_s.items() if now_s - at > KEPT_S and not self._by_model[model]]
        for model in old:
            del self._ended_s[model], self._by_model[model]
        wanted = {*self.queue.models(), *self._ended_s, *(+self._by_model)}
        found = {}
        for model in sorted(wanted):
            waiting, oldest_s = self.queue.waiting(model, now_s)
            found[model] = ModelDemand(waiting=waiting, in_flight=self._by_model[model], oldest_s=round(oldest_s, 3))
        return found

    def _assign(self, model: str, now_s: float) -> Iterable[tuple[Ticket, str]]:
        while True:
            for ticket in self.queue.in_turn(model):
                worker = self._place(ticket, now_s)
                if worker is not None:
                    self.queue.take(ticket, now_s)
                    yield ticket, worker
                    break
            else:
                return

    def _place(self, ticket: Ticket, now_s: float) -> str | None:
        free = [one for one in self.workers.values() if self._is_free(one, ticket.model, now_s)]
        others = [one for one in free if one.name != ticket.avoid]
        candidates = others or [one for one in free if one.moment >= ticket.avoid_until]
        if not candidates:
            return None
        worker = choose(candidates, self._in_flight, self._last, self._memory.knows(ticket.keys))
        self._given += 1
        self._last[worker] = self._given
        self._memory.remember(ticket.keys, worker)
        self._in_flight[worker] += 1
        self._by_model[ticket.model] += 1
        return worker

    def _is_free(self, worker: LiveWorker, model: str, now_s: float) -> bool:
        if not worker.ready or worker.model != model or self._in_flight[worker.name] >= worker.limit:
            return False
        held = self._held.get(worker.name)
        if held is None:
            return True
        return worker.moment != held.moment or (held.until_s is not None and now_s >= held.until_s)
