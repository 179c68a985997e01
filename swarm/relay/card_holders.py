"""Who uses a card: one swarm at a time, until it has asked nothing for a while. For one event loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from swarm.core.nodes.relay_wire import HOLD_S


class CardHolder:
    """Of one card."""

    def __init__(self) -> None:
        self._id = ""
        self._words = ""
        self._asked_s = float("-inf")
        self._running = 0

    def refusal(self, holder: str, now_s: float) -> str:
        """Why this one may not use the card now, naming who does; empty: it may, and holds it from now on."""
        who, _, words = holder.partition(" ")
        if self._id not in ("", who) and (self._running or now_s - self._asked_s < HOLD_S):
            return f"the card serves another swarm: {self._words or self._id}"
        self._id, self._words, self._asked_s = who, words, now_s
        return ""

    @contextmanager
    def asking(self, clock: Callable[[], float]) -> Iterator[None]:
        """A request of the holder runs: it holds the card meanwhile, and is counted from its end."""
        self._running += 1
        try:
            yield
        finally:
            self._running -= 1
            self._asked_s = clock()
