"""The requests that a worker has in flight, and how many there were on average during each of them."""

from __future__ import annotations

from typing import NamedTuple


class Flight(NamedTuple):
    """One request, from its beginning."""

    at_s: float
    in_flight_s: float
    """Requests in flight, summed over time until then."""
    grouped: bool
    """It is one of a prefix group."""


class InFlight:
    """Owned by the work loop. Keys are any that tell requests apart; times are clock seconds."""

    def __init__(self, now_s: float) -> None:
        self.now_s = now_s
        self.before = 0
        """How many there were at the beginning of this tick, those that ended in it included."""
        self.grouped = 0
        """How many are of a prefix group."""
        self._summed_s = 0.0
        self._flights: dict[int, Flight] = {}

    def __len__(self) -> int:
        return len(self._flights)

    def tick(self, now_s: float) -> None:
        """Time has passed, with as many in flight as had begun and not ended."""
        self.before = len(self._flights)
        self._summed_s += self.before * (now_s - self.now_s)
        self.now_s = now_s

    def began(self, key: int, *, grouped: bool) -> None:
        """One has begun."""
        self._flights[key] = Flight(self.now_s, self._summed_s, grouped)
        self.grouped += grouped

    def ended(self, key: int) -> Flight | None:
        """One has ended; None: it was none of these."""
        flight = self._flights.pop(key, None)
        self.grouped -= flight is not None and flight.grouped
        return flight

    def beside(self, flight: Flight) -> float:
        """How many were in flight on average since it began, itself included."""
        return (self._summed_s - flight.in_flight_s) / max(self.now_s - flight.at_s, 1e-6)
