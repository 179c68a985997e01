"""Joules of a worker's cards, from a driver's counters where it has them, else from power over time. Pure.

A meter is a value; each reading makes the next. A card that tells neither energy nor power, as a part of a card does, makes
the whole unknown.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import msgspec

from swarm.core.gpu_reading import GpuReading, named

LONGEST_GAP_S = 60.0
"""Power is taken to change evenly between two readings so close; what was used in a longer gap is left out."""


class EnergyMeter(msgspec.Struct, frozen=True, kw_only=True):
    """What was counted up to the last reading."""

    at_s: float
    """Monotonic."""
    total_j: float = 0.0
    powers_w: dict[str, float] = msgspec.field(default_factory=dict)
    """By card: at the last reading, or over the time before it where the driver only counts energy."""
    counters_j: dict[str, float] = msgspec.field(default_factory=dict)
    """By card: the driver's own sum."""

    def at(self, now_s: float) -> float:
        """Joules by now, reckoned ahead: as if the power had been since the last reading what it was then."""
        return self.total_j + sum(self.powers_w.values()) * min(max(0.0, now_s - self.at_s), LONGEST_GAP_S)


def metered(
    before: EnergyMeter | None, readings: Sequence[GpuReading], uuids: Collection[str], now_s: float
) -> EnergyMeter | None:
    """The meter after these readings; None while one of the cards tells neither energy nor power."""
    cards = [card for card in named(readings, uuids) if card.fault is None]
    if len(cards) < len(uuids) or not cards or any(c.power_w is None and c.energy_j is None for c in cards):
        return None
    counters_j = {card.uuid: card.energy_j for card in cards if card.energy_j is not None}
    powers_w = {card.uuid: card.power_w for card in cards if card.power_w is not None}
    if before is None:
        return EnergyMeter(at_s=now_s, powers_w=powers_w, counters_j=counters_j)
    gap_s, total_j = now_s - before.at_s, before.total_j
    for card in cards:
        counted_j = before.counters_j.get(card.uuid)
        used_j = 0.0
        if card.energy_j is not None and counted_j is not None:
            used_j = max(0.0, card.energy_j - counted_j)  # a driver that was loaded anew counts from 0
        elif card.power_w is not None and gap_s <= LONGEST_GAP_S:
            used_j = (before.powers_w.get(card.uuid, card.power_w) + card.power_w) / 2 * gap_s
        if card.power_w is None:
            powers_w[card.uuid] = used_j / gap_s if gap_s > 0 else 0.0
        total_j += used_j
    return EnergyMeter(at_s=now_s, total_j=total_j, powers_w=powers_w, counters_j=counters_j)
