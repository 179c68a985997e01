"""The live requests that wait for a place: round robin between clients, first come first served within one. Pure.

Lines are kept by model, for a place serves the model that its worker holds. Whoever was given a place goes to the end of
the round; a request that comes back (its worker refused it) stands first in its client's line.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(eq=False, slots=True, kw_only=True)
class Ticket:
    """One live request on its way to a worker."""

    client: str
    model: str
    """Canonical name."""
    keys: tuple[int, ...] = ()
    """Of its prompt's beginning (``routing.prefix_keys``)."""
    avoid: str | None = None
    """The worker whose server failed it last."""
    avoid_until: tuple[int, int] = (0, 0)
    """That worker may be asked again once its ``moment`` has reached this, if no other can."""
    waited_s: float = 0.0
    since_s: float = 0.0
    """When it began to wait, this time."""


class WaitingQueue:
    """Times are seconds on the caller's monotonic clock."""

    def __init__(self, *, queue_max: int, max_wait_s: float) -> None:
        self._queue_max = queue_max
        self._max_wait_s = max_wait_s
        self._lines: dict[str, OrderedDict[str, deque[Ticket]]] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def models(self) -> list[str]:
        """Models that somebody waits for."""
        return list(self._lines)

    def put(self, ticket: Ticket, now_s: float) -> bool:
        """Wait at the end of its client's line; False if as many wait as may."""
        if self._count >= self._queue_max:
            return False
        self._line(ticket).append(ticket)
        self._entered(ticket, now_s)
        return True

    def put_back(self, ticket: Ticket, now_s: float) -> None:
        """Wait again, first in its client's line. It was let in once, so the queue's limit does not count."""
        self._line(ticket).appendleft(ticket)
        self._entered(ticket, now_s)

    def in_turn(self, model: str) -> Iterator[Ticket]:
        """Who waits for this model: the first of every client in the order of the round, then the second ones …"""
        lines = [list(line) for line in self._lines.get(model, {}).values()]
        for place in range(max(map(len, lines), default=0)):
            yield from (line[place] for line in lines if place < len(line))

    def take(self, ticket: Ticket, now_s: float) -> None:
        """It was given a place: its client goes to the end of the round."""
        self.remove(ticket)
        ticket.waited_s += max(0.0, now_s - ticket.since_s)
        clients = self._lines.get(ticket.model, OrderedDict())
        if ticket.client in clients:
            clients.move_to_end(ticket.client)

    def remove(self, ticket: Ticket) -> None:
        """It waits no longer."""
        clients = self._lines[ticket.model]
        clients[ticket.client].remove(ticket)
        self._count -= 1
        if not clients[ticket.client]:
            del clients[ticket.client]
        if not clients:
            del self._lines[ticket.model]

    def expired(self, now_s: float) -> list[Ticket]:
        """Those that have waited as long as they may, taken out."""
        late = [ticket for ticket in self._all() if self._ends_s(ticket) <= now_s]
        for ticket in late:
            self.remove(ticket)
        return late

    def next_end_s(self) -> float | None:
        """When the next one will have waited too long."""
        return min(map(self._ends_s, self._all()), default=None)

    def waiting(self, model: str, now_s: float) -> tuple[int, float]:
        """How many wait for a model, and for how long the oldest has."""
        found = list(self.in_turn(model))
        return len(found), max((one.waited_s + now_s - one.since_s for one in found), default=0.0)

    def _all(self) -> Iterator[Ticket]:
        return (ticket for clients in self._lines.values() for line in clients.values() for ticket in line)

    def _line(self, ticket: Ticket) -> deque[Ticket]:
        return self._lines.setdefault(ticket.model, OrderedDict()).setdefault(ticket.client, deque())

    def _entered(self, ticket: Ticket, now_s: float) -> None:
        ticket.since_s = now_s
        self._count += 1

    def _ends_s(self, ticket: Ticket) -> float:
        return ticket.since_s + self._max_wait_s - ticket.waited_s
