"""Tokens per second over the last hour, by worker: sampled from heartbeats, kept in bounded memory, drawn as a path.

* A sample is the difference of two sums of one worker's life, taken on its own clock; None where nothing is known.
* All series end with the same sample, so that points of one time can be added.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from itertools import zip_longest
from typing import NamedTuple

from starlette.concurrency import run_in_threadpool

from swarm.core.worker import RateSample
from swarm.errors import SwarmError
from swarm.http.background import beside
from swarm.http.parts import HttpParts
from swarm.queue.stores import registry

STEP_S = 5.0
KEPT = 720
"""Samples of each worker: an hour."""
MOST_WORKERS = 256
POINTS, LEAST_POINTS = 120, 24
"""Of a drawn line, each the mean of what was sampled in its time."""
WIDTH, HEIGHT = 240, 40
"""Of the drawing, in its own units; the page stretches it."""

Rate = float | None


class Sparkline(NamedTuple):
    """A line and the area under it, as paths of an SVG of ``WIDTH`` by ``HEIGHT``."""

    line: str
    under: str
    highest: float
    span_s: float
    """So long it reaches back."""


class RateHistory:
    """What each worker generated, for as long as this process runs but at most an hour."""

    def __init__(self) -> None:
        self._series: dict[str, deque[Rate]] = {}
        self._last: dict[str, RateSample] = {}

    def note(self, now: Mapping[str, RateSample | None]) -> None:
        """Take one sample: what the heartbeat of each living worker says, None where it says nothing."""
        for name in now:
            if name not in self._series and len(self._series) < MOST_WORKERS:
                self._series[name] = deque(maxlen=KEPT)
        for name, series in list(self._series.items()):
            series.append(self._rate(name, now.get(name)))
            if all(rate is None for rate in series) and name not in now:
                del self._series[name]

    def _rate(self, name: str, sample: RateSample | None) -> Rate:
        before = self._last.pop(name, None)
        if sample is None:
            return None
        self._last[name] = sample
        if before is None or sample.at_s <= before.at_s:
            return None
        # What a request had generated when it was stopped leaves the sums again, and a new model begins at 0.
        return max(0, sample.tokens_out - before.tokens_out) / (sample.at_s - before.at_s)

    def of(self, name: str) -> Sparkline | None:
        """One worker's; None before there is a line to draw."""
        return draw(tuple(self._series.get(name, ())))

    def together(self) -> Sparkline | None:
        """The sum over all workers."""
        newest_first = zip_longest(*(reversed(series) for series in self._series.values()))
        sums = [sum(known) if (known := [rate for rate in rates if rate is not None]) else None for rates in newest_first]
        return draw(sums[::-1])


def draw(rates: Sequence[Rate]) -> Sparkline | None:
    """Samples, oldest first, as a line that ends at the right edge; gaps stay gaps.

    Its width is two minutes, more once there are more, an hour at most. None where nothing was generated.
    """
    size = -(-len(rates) // POINTS) or 1
    parts = [rates[max(0, end - size) : end] for end in range(len(rates), 0, -size)][::-1]
    means = [sum(known) / len(known) if (known := [r for r in part if r is not None]) else None for part in parts]
    highest = max((mean for mean in means if mean is not None), default=0.0)
    step = WIDTH / (max(len(means), LEAST_POINTS) - 1)
    left = WIDTH - step * (len(means) - 1)
    places = [
        None if mean is None else (left + step * i, HEIGHT * (1 - 0.95 * mean / (highest or 1)))
        for i, mean in enumerate(means)
    ]
    runs: list[list[tuple[float, float]]] = [[]]
    for place in places:
        if place is not None:
            runs[-1].append(place)
        elif runs[-1]:
            runs.append([])
    drawn = [run for run in runs if len(run) > 1]
    if not drawn or not highest:
        return None
    lines = ["M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in run) for run in drawn]
    under = [f"{line}L{run[-1][0]:.1f} {HEIGHT}L{run[0][0]:.1f} {HEIGHT}Z" for line, run in zip(lines, drawn, strict=True)]
    return Sparkline("".join(lines), "".join(under), highest, len(rates) * STEP_S)


def read_samples(parts: HttpParts) -> dict[str, RateSample | None]:
    """The newest sums of each living worker. Reads a small file for each."""
    layout = parts.queue.layout
    beats = {row.name: registry.read_heartbeat(layout, row.name) for row in registry.living(layout)}
    return {name: beat.recent[-1] if beat is not None and beat.recent else None for name, beat in beats.items()}


@asynccontextmanager
async def sampling(history: RateHistory, parts: HttpParts) -> AsyncIterator[None]:
    """Samples every ``STEP_S`` within the block; a look that fails leaves a gap."""

    async def sample() -> None:
        while True:
            try:
                found = await run_in_threadpool(read_samples, parts)
            except (OSError, SwarmError) as problem:
                parts.log.debug("no sample of the workers' rates: %s", problem)
                found = {}
            history.note(found)
            await asyncio.sleep(STEP_S)

    async with beside(sample()):
        yield
