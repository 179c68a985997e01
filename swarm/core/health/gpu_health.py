"""Health of a worker's cards: too hot, lost or fine.

Also whether a model landed on the cards it was meant for. Pure: judged from the driver's readings, with the memory a verdict
needs in its value.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Literal

import msgspec

from swarm.config.settings import GpuSettings
from swarm.core.gpu_reading import GpuReading, named

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
        """Whether a card is certainly lost: what runs on it will not end by itself."""
        return self.faults >= LOST_AFTER_READINGS


def judge_cards(
    readings: Sequence[GpuReading], uuids: Sequence[str], before: CardVerdict, settings: GpuSettings
) -> CardVerdict:
    """The verdict after one more reading of all cards; ``uuids`` are this worker's.

    No readings at all (no driver, nothing to ask) is no judgement, and neither is a temperature the driver does not tell.
    """
    if not readings or not uuids:
        return CardVerdict()
    mine = named(readings, uuids)
    fault = next((f"GPU {r.index} cannot be read: {r.fault}" for r in mine if r.fault is not None), "")
    missing = sorted(uuid for uuid in set(uuids) if not named(mine, (uuid,)))
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


ENOUGH = 0.6
"""Share of the promised memory that must have come: servers reckon generously, and drivers count late."""
SLACK_MIB = 64
"""Less memory than this on a card is no model."""


class PinVerdict(msgspec.Struct, frozen=True):
    """``unknown``: the driver does not tell enough to say; ``text`` gives the numbers."""

    state: Literal["proven", "refuted", "unknown"]
    text: str


def judge_pin(
    before: Sequence[GpuReading],
    after: Sequence[GpuReading],
    *,
    uuids: Collection[str],
    promised_mib: int,
    pids: Collection[int],
) -> PinVerdict:
    """The verdict on one load. ``promised_mib`` is what the server says lies on cards; ``pids`` are its processes.

    Other workers may load at the same moment, so growth elsewhere counts only where the process is known to be ours.
    In a container the driver may list processes by numbers that are not ours; then only the own card's growth is judged.
    """
    mine = named(after, uuids)
    if promised_mib <= SLACK_MIB:
        return PinVerdict("unknown", f"the server claims {promised_mib} MiB on the card: too little to judge by")
    if len(mine) < len(set(uuids)) or any(card.fault is not None or card.simulated for card in mine):
        return PinVerdict("unknown", "the driver does not report this worker's cards")
    astray = [c for c in after if not c.is_one_of(uuids) and _held_by(c, pids) > SLACK_MIB]
    if astray:
        where = ", ".join(f"{_held_by(c, pids)} MiB on GPU {c.index} ({c.uuid})" for c in astray)
        return PinVerdict("refuted", f"its server holds {where}, which is another worker's card")
    return _judge_growth(before, mine, promised_mib, pids)


def _judge_growth(
    before: Sequence[GpuReading], mine: Sequence[GpuReading], promised_mib: int, pids: Collection[int]
) -> PinVerdict:
    grown_mib, how = _growth(before, mine, pids)
    if grown_mib is None:
        return PinVerdict("unknown", "the driver does not report memory use")
    numbers = f"{_names(mine)} grew by {grown_mib} MiB ({how}), the server says {promised_mib} MiB"
    if grown_mib >= ENOUGH * promised_mib:
        return PinVerdict("proven", numbers)
    if not all(_tells(card) for card in mine):
        # Others may have let go of as much meanwhile: without a list of processes that looks just the same.
        return PinVerdict("unknown", "the driver does not list processes, and the whole card's memory does not show it")
    return PinVerdict("refuted", numbers)


def _growth(before: Sequence[GpuReading], mine: Sequence[GpuReading], pids: Collection[int]) -> tuple[int | None, str]:
    """Memory that came to these cards: of our processes where they are listed, else of all, else of the whole card."""
    earlier = {card.uuid: card for card in before}
    if any(p.pid in pids and p.used_mib is not None for card in mine for p in card.processes or ()):
        return sum(_held_by(c, pids) - _held_by(earlier.get(c.uuid), pids) for c in mine), "its processes"
    if all(_tells(card) for card in mine) and any(card.processes for card in mine):
        return sum(_new_mib(earlier.get(c.uuid), c) for c in mine), "all processes"
    totals = [(earlier[c.uuid].memory_used_mib if c.uuid in earlier else None, c.memory_used_mib) for c in mine]
    known = [(old, new) for old, new in totals if old is not None and new is not None]
    return (sum(new - old for old, new in known), "the whole card") if len(known) == len(totals) else (None, "")


def _tells(card: GpuReading) -> bool:
    return card.processes is not None and all(p.used_mib is not None for p in card.processes)


def _new_mib(before: GpuReading | None, after: GpuReading) -> int:
    """What processes hold more than before; what others gave back meanwhile does not count against it."""
    old = {p.pid: p.used_mib or 0 for p in (before.processes or () if before is not None else ())}
    return sum(max(0, (p.used_mib or 0) - old.get(p.pid, 0)) for p in after.processes or ())


def _held_by(card: GpuReading | None, pids: Collection[int]) -> int:
    return sum(p.used_mib or 0 for p in (card.processes or () if card is not None else ()) if p.pid in pids)


def _names(cards: Iterable[GpuReading]) -> str:
    return " + ".join(f"GPU {card.index}" for card in cards)
