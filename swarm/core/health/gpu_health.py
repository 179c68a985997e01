"""Whether a worker's cards may be given llm work: too hot, lost, or fine. Pure, with the memory it needs in its value."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from swarm.config.settings import GpuSettings
from swarm.core.gpu import GpuReading

LOST_AFTER_READINGS = 2
"""A driver that is slow once is no lost card: work is cut only when the next reading says the same."""


class CardVerdict(msgspec.Struct, frozen=True):
    """How the cards are. ``reason`` is empty when they may work."""

    hot: bool = False
    faults: int = 0
    """Readings in a row in which a card could not be read."""
    reason: str = ""

    @property
    def lost(self) -> bool:
        """A card is gone for certain: what runs on it will not end by itself."""
        return self.faults >= LOST_AFTER_READINGS


def judge_cards(
    readings: Sequence[GpuReading], uuids: Sequence[str], before: CardVerdict, settings: GpuSettings
) -> CardVerdict:
    """The verdict after one more reading of all cards; ``uuids`` are this worker's.

    No readings at all (no driver, nothing to ask) is no judgement, and neither is a temperature the driver does not tell.
    """
    if not readings or not uuids:
        return CardVerdict()
    mine = [reading for reading in readings if reading.is_one_of(uuids)]
    fault = next((f"GPU {r.index} cannot be read: {r.fault}" for r in mine if r.fault is not None), "")
    missing = sorted(uuid for uuid in set(uuids) if not any(reading.is_one_of((uuid,)) for reading in mine))
    if not fault and missing:
        fault = f"the driver does not list {', '.join(missing)} any more"
    if fault:
        return CardVerdict(hot=before.hot, faults=before.faults + 1, reason=fault)
    return _by_temperature(mine, settings, was_hot=before.hot)


def _by_temperature(mine: Sequence[GpuReading], settings: GpuSettings, *, was_hot: bool) -> CardVerdict:
    known = [(r.temperature_c, r.index) for r in mine if r.temperature_c is not None]
    if not known:
        return CardVerdict()
    hottest_c, index = max(known)
    if hottest_c >= settings.warn_c or (was_hot and hottest_c > settings.resume_c):
        text = (
            f"GPU {index} is at {hottest_c} °C (limit {settings.warn_c:g}): "
            f"no llm work until it is down to {settings.resume_c:g}"
        )
        return CardVerdict(hot=True, reason=text)
    return CardVerdict()
