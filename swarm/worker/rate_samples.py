"""What a worker puts into its heartbeat to tell its rates: sums over the last minute, and energy by request."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from time import monotonic

from swarm.core.energy import EnergyMeter
from swarm.core.rates import WINDOW_S
from swarm.core.worker import Heartbeat, ModelTally, RateSample, SlotView

STEP_S = 10.0
"""A sample is kept so often."""


class RateSamples:
    """Samples of the model that the worker holds, oldest first. For one thread, which writes the heartbeats."""

    def __init__(self) -> None:
        self._began_s = monotonic()
        self._kept: tuple[RateSample, ...] = ()
        self._model: str | None = None

    def with_now(self, beat: Heartbeat, slots: tuple[SlotView, ...], meter: EnergyMeter | None) -> tuple[RateSample, ...]:
        """The samples up to this moment. Another model starts them anew: its tokens are others."""
        tally = beat.models.get(beat.model or "") or ModelTally()
        served = [slot for slot in slots if slot.task_class == "llm" and slot.phase == "running"]
        now = RateSample(
            at_s=round(monotonic() - self._began_s, 3),
            requests=tally.completed + tally.failed,
            tokens_in=tally.tokens_in,
            tokens_out=tally.tokens_out + sum(slot.progress for slot in served),
            in_flight=len(served),
            energy_j=None if meter is None else round(meter.total_j, 1),
            energy_at_s=0.0 if meter is None else round(meter.at_s - self._began_s, 3),
        )
        if beat.model != self._model:
            self._model, self._kept = beat.model, (now,)
            return self._kept
        # The oldest one kept is the last that lies at least a window back.
        while len(self._kept) > 1 and now.at_s - self._kept[1].at_s >= WINDOW_S:
            self._kept = self._kept[1:]
        samples = (*self._kept, now)
        if not self._kept or now.at_s - self._kept[-1].at_s >= STEP_S:
            self._kept = samples
        return samples


class EnergyShares:
    """Splits the joules of the cards among the requests in flight: each gets the same part of what is used meanwhile."""

    def __init__(self, read_meter: Callable[[], EnergyMeter | None]) -> None:
        """``read_meter``: joules so far; None while unknown."""
        self._read_meter = read_meter
        self._last_j: float | None = None
        self._each_j = 0.0
        """What one request would have had that was in flight from the beginning."""
        self._open: dict[Hashable, float | None] = {}

    def begin(self, key: Hashable) -> None:
        """A request starts."""
        self._open[key] = self._each_j if self._count() else None

    def end(self, key: Hashable) -> float | None:
        """Joules of a request that ends; None where they are not known, or it never began."""
        known = self._count()
        began_j = self._open.pop(key, None)
        return round(self._each_j - began_j, 3) if known and began_j is not None else None

    def _count(self) -> bool:
        """Share out what was used since the last call; whether that is known."""
        meter, before_j = self._read_meter(), self._last_j
        now_j = None if meter is None else meter.at(monotonic())
        if now_j is None or before_j is None:
            self._last_j = now_j
        elif now_j > before_j:  # what was reckoned ahead of a reading is not shared out twice
            self._last_j = now_j
            self._each_j += (now_j - before_j) / len(self._open) if self._open else 0.0
        return now_j is not None
