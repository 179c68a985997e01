"""Joules of a worker's cards, from a driver's counters where it has them, else from power over time. Pure.

A meter is a value; each reading makes the next. A card that tells neither energy nor power, as a part of a card does, makes
the whole unknown.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import msgspec

from swarm.core.snapshot import GpuReading, named

LONGEST_GAP_S = 60.0
"""Power is taken for constant between two readings no longer apart than this; what was used in a longer gap is left out."""


class EnergyMeter(msgspec.Struct, frozen=True, kw_only=True):
    """What was counted up to the last reading."""

    at_s: float
    """Monotonic."""
    total_j: float = 0.0
    watts: float = 0.0
    """At the last reading."""
    counters_j: dict[str, float] = msgspec.field(default_factory=dict)
    """By card: the driver's own sum."""

    def at(self, now_s: float) -> float:
        """Joules by now: since the last reading the power was what it was then."""
        return self.total_j + self.watts * min(max(0.0, now_s - self.at_s), LONGEST_GAP_S)


def metered(
    before: EnergyMeter | None, readings: Sequence[GpuReading], uuids: Collection[str], now_s: float
) -> EnergyMeter | None:
    """The meter after these readings; None while one of the cards tells neither energy nor power."""
    cards = [card for card in named(readings, uuids) if card.fault is None]
    if len(cards) < len(uuids) or not cards or any(c.power_w is None and c.energy_j is None for c in cards):
        return None
    counters_j = {card.uuid: card.energy_j for card in cards if card.energy_j is not None}
    if before is None:
        return EnergyMeter(at_s=now_s, watts=sum(c.power_w or 0.0 for c in cards), counters_j=counters_j)
    gap_s = now_s - before.at_s
    used_j = watts = 0.0
    for card in cards:
        counted_j = before.counters_j.get(card.uuid)
        if card.energy_j is not None and counted_j is not None:
            card_j = max(0.0, card.energy_j - counted_j)  # a driver that was loaded anew counts from 0
        elif card.power_w is not None and gap_s <= LONGEST_GAP_S:
            card_j = card.power_w * gap_s
        else:
            card_j = 0.0
        used_j += card_j
        watts += card.power_w if card.power_w is not None else card_j / gap_s if gap_s > 0 else 0.0
    return EnergyMeter(at_s=now_s, total_j=before.total_j + used_j, watts=watts, counters_j=counters_j)
