"""A worker's eye on its own cards: readings taken beside the work loop, judged by ``swarm.core.health.gpu_health``."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from swarm.config.settings import GpuSettings
from swarm.core.gpu import GpuReading
from swarm.core.health.gpu_health import CardVerdict, judge_cards
from swarm.runtime.ports import Clock, GpuReader
from swarm.worker.slots import ThreadPool

STALLED_AFTER_S = 60.0
"""A reading under way for so long means a driver that is stuck in the kernel, and cards nobody can vouch for."""


class CardWatch:
    """``turn`` belongs to the work loop and never waits; one reading at a time runs on a pool thread."""

    def __init__(
        self,
        reader: GpuReader,
        *,
        uuids: Sequence[str],
        settings: GpuSettings,
        clock: Clock,
        log: logging.Logger,
        on_lost: Callable[[str], None] = lambda _reason: None,
    ) -> None:
        """``on_lost`` is told once per loss, on the pool's thread."""
        self._reader = reader
        self._uuids = tuple(uuids)
        self._settings = settings
        self._clock = clock
        self._log = log
        self._on_lost = on_lost
        self._due_s = clock.mono_s()
        self._asked_s: float | None = None
        self._verdict = CardVerdict()

    def turn(self, pool: ThreadPool, wake: Callable[[], None]) -> CardVerdict:
        """The latest verdict; starts the next reading when it is due. ``wake`` is called when the verdict has changed."""
        now_s = self._clock.mono_s()
        if self._asked_s is None and now_s >= self._due_s:
            self._asked_s = now_s
            pool.submit(lambda: self._look(wake))
        elif self._asked_s is not None and now_s - self._asked_s > STALLED_AFTER_S:
            return CardVerdict(reason=f"the GPU driver has not answered for {now_s - self._asked_s:.0f} s")
        return self._verdict

    def _look(self, wake: Callable[[], None]) -> None:
        before = self._verdict
        try:
            readings: tuple[GpuReading, ...] = self._reader.read()
        except Exception:  # noqa: BLE001 - a thread's end is silent otherwise; cards without a reading are not judged
            self._log.exception("the cards cannot be read")
            readings = ()
        after = judge_cards(readings, self._uuids, before, self._settings)
        self._verdict = after
        self._due_s = self._clock.mono_s() + self._settings.check_s
        self._asked_s = None
        self._tell(before, after)
        if after != before:
            wake()

    def _tell(self, before: CardVerdict, after: CardVerdict) -> None:
        if after.lost and not before.lost:
            self._log.error("Card lost: %s; running requests are cut", after.reason)
            self._on_lost(after.reason)
        elif after.reason and not before.reason:
            self._log.warning("Card not usable: %s", after.reason)
        elif before.reason and not after.reason:
            self._log.info("Card usable again")
