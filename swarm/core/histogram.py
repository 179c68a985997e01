"""Durations counted in fixed buckets: small enough for a heartbeat, and mergeable.

The form is what metrics systems read.
"""

from __future__ import annotations

from bisect import bisect_left

import msgspec

WAIT_BOUNDS_S = (0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14400.0, 86400.0)
RUN_BOUNDS_S = (0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0)
TICK_BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)


class Histogram(msgspec.Struct, frozen=True):
    """How many durations fell up to each of ``bounds_s``; the last count, one more than bounds, is of longer ones."""

    bounds_s: tuple[float, ...]
    counts: tuple[int, ...]
    sum_s: float = 0.0

    @property
    def total(self) -> int:
        """Durations counted."""
        return sum(self.counts)

    def with_one(self, seconds: float) -> Histogram:
        """This one and one duration more; negative ones count as 0."""
        seconds = max(0.0, seconds)
        place = bisect_left(self.bounds_s, seconds)
        counts = (*self.counts[:place], self.counts[place] + 1, *self.counts[place + 1 :])
        return Histogram(self.bounds_s, counts, round(self.sum_s + seconds, 6))


def empty(bounds_s: tuple[float, ...]) -> Histogram:
    """Nothing counted yet."""
    return Histogram(bounds_s, (0,) * (len(bounds_s) + 1))
