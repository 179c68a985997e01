"""The table placement moves cards on: who holds what, and what that means for each model's waiting work."""

from __future__ import annotations

import math
from collections.abc import Iterable

import msgspec

from swarm.core.placement.demand import Demand


class Card(msgspec.Struct, frozen=True, kw_only=True):
    """A worker ready for llm work, with its card."""

    name: str
    slots: int
    busy: int
    """Slots in use, as far as is known."""
    holds: str | None
    held_s: float = 0.0
    refused: frozenset[str] = frozenset()
    """Models it cannot be given now."""
    model: str | None = None
    """What it should hold, so far; starts as what it holds or is about to load."""
    pinned: bool = False
    """A resource task is outstanding, or it was moved in this turn: it stays."""
    reason: str = ""

    def placed(self, model: str | None, reason: str) -> Card:
        """The same card, settled on this model."""
        return msgspec.structs.replace(self, model=model, pinned=True, reason=reason)

    @property
    def free(self) -> int:
        """Slots that would take waiting tasks of its model; one that is about to load counts whole."""
        return max(0, self.slots - self.busy) if self.model == self.holds else self.slots


class Board:
    """Cards and demand, with the sums placement asks for. Lives for one call; seconds and slots throughout."""

    def __init__(self, demand: dict[str, Demand], cards: Iterable[Card]) -> None:
        self.demand = demand
        self.cards = list(cards)

    def give(self, card: Card, model: str, reason: str) -> None:
        """Settle a card on a model."""
        self.cards[self.cards.index(card)] = card.placed(model, reason)

    def on(self, model: str) -> list[Card]:
        """Cards that hold, or are about to hold, this model."""
        return [c for c in self.cards if c.model == model]

    def costs_too_much(self, model: str) -> bool:
        """Whether a hot card is too dear for it: nobody knows whether it fits, and one card is on its way to find out."""
        trying = self.on(model)
        return bool(trying) and not self.demand[model].proven and all(card.holds != model for card in trying)

    def slots(self, model: str) -> int:
        """Slots of those cards."""
        return sum(c.slots for c in self.on(model))

    def clear_s(self, model: str, *, slots: int | None = None) -> float:
        """Seconds until this model's work is done at its present slots (or that many); infinite without any."""
        slots = self.slots(model) if slots is None else slots
        work_s = self.demand[model].work_s if model in self.demand else 0.0
        return work_s / slots if slots > 0 else math.inf

    def waiting(self, model: str | None) -> int:
        """Waiting tasks of a model."""
        return self.demand[model].waiting if model in self.demand else 0

    def needy(self, max_wait_s: float) -> list[Demand]:
        """Models with more waiting tasks than free slots, the slowest to clear first."""
        short = [d for d in self.demand.values() if d.waiting > sum(c.free for c in self.on(d.model))]
        return sorted(short, key=lambda d: (-self.clear_s(d.model), d.unserved_s <= max_wait_s, -d.work_s, d.model))

    def movable(self) -> list[Card]:
        """Cards that hold a model and are not settled, the least busy first."""
        return sorted((c for c in self.cards if not c.pinned and c.model is not None), key=lambda c: (c.busy, c.name))
