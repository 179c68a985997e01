"""Levels of requests at once, and what samples tell of the rate of each: means, noise, differences, drift. Pure."""

from __future__ import annotations

import math
import statistics

import msgspec

LADDER = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
WORTH = 1.04
"""A step up must give this much more: each request in flight costs memory and makes every answer later."""
FREE = 0.985
"""A step down may cost this much."""
ENOUGH, PLENTY = 6, 32
"""Samples that may already show a clear difference, and that settle a doubtful one."""
FEW = 3
"""Answers that hardly all fail to come by chance."""
DRIFT = 0.15
SURE = 3.0
"""Standard errors that a drift must exceed as well."""
MEMORY = 24
"""Samples a mean remembers, about."""


class Rate(msgspec.Struct, frozen=True):
    """What is known of one level: mean rate in tokens/s, its variance, and the samples behind both."""

    mean: float
    var: float
    n: int
    lives_s: tuple[float, ...] = ()
    """How long the last requests took."""

    @property
    def error(self) -> float:
        """The standard error of the mean, in tokens/s."""
        return math.sqrt(self.var / min(self.n, MEMORY)) if self.n > 1 else self.mean


def below(slots: int) -> int:
    """The next lower level; 1 at the least."""
    return max((level for level in LADDER if level < slots), default=1)


def levels(limit: int) -> list[int]:
    """All of them up to this limit, which is the last."""
    return [*(level for level in LADDER if level < limit), limit]


def at_most(wanted: int, limit: int) -> int:
    """The highest level up to both. The limit itself is one."""
    return max((level for level in levels(max(1, limit)) if level <= max(1, wanted)), default=1)


def between(low: int, high: int) -> int | None:
    """The middle one of the levels between these two."""
    inside = [level for level in LADDER if low < level < high]
    return inside[len(inside) // 2] if inside else None


def mixed(rate: Rate | None, tokens_s: float, life_s: float) -> Rate:
    """With one sample more, of a request that took so long; None: it is the first."""
    if rate is None:
        return Rate(tokens_s, (0.1 * tokens_s) ** 2, 1, (life_s,))
    part = 1 / min(rate.n + 1, MEMORY)
    off = tokens_s - rate.mean
    lives_s = (*rate.lives_s, life_s)[-MEMORY:]
    return Rate(rate.mean + part * off, (1 - part) * (rate.var + part * off * off), rate.n + 1, lives_s)


def few_end_s(rate: Rate, at_once: int) -> float:
    """By when ``FEW`` of so many requests end that begin together and go on as those before did."""
    return sorted(rate.lives_s)[min(len(rate.lives_s) - 1, len(rate.lives_s) * FEW // at_once)]


def told_apart(new: Rate, old: Rate, slots: int) -> bool:
    """Whether the new level's rate, at so many slots, is known well enough to be judged beside the old one's."""
    if new.n >= max(PLENTY, slots):
        return True
    noise = math.hypot(new.error, old.error)
    edges = (abs(new.mean - WORTH * old.mean), abs(new.mean - FREE * old.mean))
    return new.n >= ENOUGH and min(edges) > 2.0 * noise


def drifted(recent: tuple[float, ...], known: Rate) -> bool:
    """The last few samples, or the last many, are off by more than noise explains."""
    for number in (ENOUGH, MEMORY):
        if len(recent) < number:
            return False
        last = recent[-number:]
        off = abs(statistics.fmean(last) - known.mean)
        # The deviation last: it takes as long as all the rest of a sample, and is hardly ever asked for.
        if off > DRIFT * known.mean and off > SURE * statistics.stdev(last) / math.sqrt(number):
            return True
    return False
