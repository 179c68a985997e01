"""The cards that are ready for llm work and what each should hold so far, with the sums placement asks for."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import msgspec

from swarm.core.placement.demand import Demand
from swarm.core.placement.speeds import Speeds, eta_s


class Card(msgspec.Struct, frozen=True, kw_only=True):
    """A worker ready for llm work, with its card."""

    name: str
    speeds: Speeds
    busy: int
    """Slots in use, as far as is known."""
    holds: str | None
    held_s: float = 0.0
    refused: frozenset[str] = frozenset()
    """Models it cannot be given now."""
    model: str | None = None
    """What it should hold, so far; starts as what it holds or is about to load."""
    pinned: bool = False
    """A resource task is outstanding, or it was moved in this tick: it stays."""
    replaceable: bool = False
    """All that pins it is a load that nobody has begun and that live requests may go before."""
    kept: bool = False
    """Live requests use its model, or did so just now: batch work may not take it."""
    live: bool = False
    """Its model is placed for live requests."""
    promised: str | None = None
    """A model of live requests that gets it soon: until then batch work moves it nowhere."""
    live_in_flight: int = 0
    reason: str = ""

    def placed(self, model: str | None, reason: str, *, live: bool = False) -> Card:
        """The same card, settled on this model."""
        return msgspec.structs.replace(self, model=model, pinned=True, replaceable=False, live=live, reason=reason)

    @property
    def free(self) -> int:
        """Slots that would take waiting tasks of its model; one that is about to load counts whole."""
        slots = self.speeds.slots(self.name, self.model or "")
        return max(0, slots - self.busy) if self.model == self.holds else slots

    def per_s(self, model: str) -> float:
        """Tasks of this model that it does, or would do, a second."""
        return self.speeds.per_s(self.name, model)

    def task_s(self, model: str) -> float:
        """Seconds that one of them takes here."""
        return self.speeds.task_s(self.name, model)


class Board:
    """Cards and demand, with the sums placement asks for. Lives for one call; seconds and tasks per second throughout."""

    def __init__(self, demand: dict[str, Demand], cards: Iterable[Card]) -> None:
        self.demand = demand
        self.cards = list(cards)
        self._on: dict[str, list[Card]] = {}
        self._clear_s: dict[str, float] = {}
        self._fastest_s: dict[str, float] = {}
        """By model, as far as worked out; until a card changes."""

    def give(self, card: Card, model: str, reason: str, *, live: bool = False) -> None:
        """Settle a card on a model."""
        self._change(card, card.placed(model, reason, live=live))

    def keep(self, card: Card) -> None:
        """Keep a card from being taken by batch work."""
        self._change(card, msgspec.structs.replace(card, kept=True))

    def on(self, model: str) -> Sequence[Card]:
        """Cards that hold, or are about to hold, this model."""
        if not self._on:
            for card in self.cards:
                if card.model is not None:
                    self._on.setdefault(card.model, []).append(card)
        return self._on.get(model, ())

    def costs_too_much(self, model: str) -> bool:
        """Whether a hot card is too expensive for it: whether it fits is unknown, and one card is on its way to find out."""
        trying = self.on(model)
        return bool(trying) and not self.demand[model].proven and all(card.holds != model for card in trying)

    def clear_s(self, model: str, *, without: Card | None = None) -> float:
        """Seconds until this model's work is done by the cards it is on, each at its own speed; infinite without any."""
        if without is not None:
            return self._cleared_s(model, without)
        if model not in self._clear_s:
            self._clear_s[model] = self._cleared_s(model, None)
        return self._clear_s[model]

    def _cleared_s(self, model: str, without: Card | None) -> float:
        demand = self.demand.get(model)
        cards = [c for c in self.on(model) if c is not without]
        found_s = eta_s(demand.waiting, demand.running, (c.per_s(model) for c in cards)) if demand else 0.0
        return math.inf if found_s is None or not cards else found_s

    def outlasts(self, model: str, card: Card, start_s: float) -> bool:
        """Whether a task that this card could begin after ``start_s`` would end before the others have cleared the model."""
        if model not in self._fastest_s:
            self._fastest_s[model] = min((c.task_s(model) for c in self.on(model)), default=0.0)
        fastest_s = self._fastest_s[model]
        late_s = max(0.0, card.task_s(model) - fastest_s) if fastest_s else 0.0
        return self.clear_s(model) > start_s + late_s

    def waiting(self, model: str | None) -> int:
        """Waiting tasks of a model."""
        return self.demand[model].waiting if model in self.demand else 0

    def needy(self, max_wait_s: float) -> list[Demand]:
        """Models with more waiting tasks than free slots, the slowest to clear first."""
        short = [d for d in self.demand.values() if d.waiting > sum(c.free for c in self.on(d.model))]
        return sorted(short, key=lambda d: (-self.clear_s(d.model), d.unserved_s <= max_wait_s, -d.work_s, d.model))

    def _change(self, card: Card, changed: Card) -> None:
        self.cards[self.cards.index(card)] = changed
        for known in (self._on, self._clear_s, self._fastest_s):
            known.clear()

    def promise(self, card: Card, model: str, reason: str) -> None:
        """Let a card be as it is until live requests get it for this model."""
        self._change(card, msgspec.structs.replace(card, promised=model, reason=reason))

    def has_work(self, model: str | None) -> bool:
        """Whether batch tasks of a model wait or run."""
        demand = self.demand.get(model or "")
        return demand is not None and bool(demand.waiting or demand.running)

    def movable(self, *, kept: bool = False) -> list[Card]:
        """Cards that hold a model and are not settled, the least busy first; ``kept``: also those that live requests use."""
        own = (c for c in self.cards if not c.pinned and c.model is not None and c.promised is None)
        return sorted((c for c in own if kept or not c.kept), key=lambda c: (c.busy, c.name))
