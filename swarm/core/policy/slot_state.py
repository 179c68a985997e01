"""What is known of how many requests at once: a value, which the rules of ``slot_tuning`` make from samples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

from swarm.core.policy.slot_levels import ENOUGH, WORTH, Rate

HOPED = 1.5
"""What a second request is taken to give where one alone was tried: nothing lower tells."""
PROBE_SHARE, PROBE_SHARE_MAX = 20.0, 320.0
"""A settled level is held at least this many times as long as a look at a neighbour takes."""

Phase = Literal["here", "up", "down", "between", "held"]


class Tuning(msgspec.Struct, frozen=True, kw_only=True):
    """``slots`` is what to keep in flight now; ``best`` what is held when nothing is tried."""

    slots: int
    best: int
    limit: int
    """Never more than this."""
    rates: Mapping[int, Rate] = msgspec.field(default_factory=dict)
    trying: Phase = "here"
    climbed: bool = False
    """A step up has paid since the last start: the way down is known already."""
    since_s: float = 0.0
    """When ``slots`` took effect."""
    look_s: float = 0.0
    """When the present phase began."""
    step_s: float = 0.0
    """How long the last look at another level took."""
    patience: float = PROBE_SHARE
    looks: int = 0
    recent: tuple[float, ...] = ()
    """The last samples of the held level, in tokens/s."""
    history: tuple[tuple[int, float], ...] = ()
    """Level and tokens/s, as they were left; the newest last."""

    @property
    def settled(self) -> bool:
        """Nothing is being tried."""
        return self.trying == "held"

    @property
    def tokens_per_s(self) -> float:
        """Of the level that is kept now, lately; 0 while unknown."""
        if len(self.recent) >= ENOUGH:
            return sum(self.recent) / len(self.recent)
        return self.rates[self.slots].mean if self.slots in self.rates else 0.0

    @property
    def best_tokens_per_s(self) -> float:
        """Of the best level; 0 while unknown."""
        return self.rates[self.best].mean if self.best in self.rates else 0.0

    @property
    def wants_more(self) -> float:
        """What the last step up to the limit gave, as a factor; 0 where the limit does not stand in the way.

        Of a limit of 1 nothing is known: ``HOPED``.
        """
        if self.best < self.limit or self.best not in self.rates or self.rates[self.best].n < ENOUGH:
            return 0.0
        lower = [level for level in self.rates if level < self.best and self.rates[level].n >= ENOUGH]
        if self.limit == 1:
            return HOPED
        gain = self.rates[self.best].mean / self.rates[max(lower)].mean if lower else 0.0
        return gain if gain >= WORTH else 0.0


def words(tuning: Tuning) -> str:
    """``8 slots: 310 tokens/s; 16 gave 316``: what is known of the best level and of its nearest neighbours."""
    if tuning.best not in tuning.rates:
        return f"{_slots(tuning.best)}: not measured yet"
    higher = [level for level in tuning.rates if level > tuning.best]
    lower = [level for level in tuning.rates if level < tuning.best]
    near = [*([min(higher)] if higher else []), *([max(lower)] if lower and not higher else [])]
    parts = [f"{_slots(tuning.best)}: {tuning.best_tokens_per_s:.4g} tokens/s"]
    parts += [f"{level} gave {tuning.rates[level].mean:.4g}" for level in near]
    if tuning.slots != tuning.best:
        parts.append(f"{tuning.slots} being tried")
    return "; ".join(parts)


def _slots(number: int) -> str:
    return "1 slot" if number == 1 else f"{number} slots"
