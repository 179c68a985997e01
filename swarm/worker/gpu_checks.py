"""A worker's checks of its cards: heat, loss, and that its server's models lie on them."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Sequence

from swarm.config.settings import GpuSettings
from swarm.core.energy import EnergyMeter, metered
from swarm.core.faults import TaskFault
from swarm.core.gpu_reading import GpuReading
from swarm.core.health.gpu_health import CardVerdict, PinVerdict, judge_cards, judge_pin
from swarm.runtime.logging import LogOnce
from swarm.runtime.ports import GpuReader
from swarm.worker.attempt import ThreadPool

STALLED_AFTER_S = 60.0
"""A reading under way for so long means a driver that is stuck in the kernel, and cards nobody can vouch for."""
SETTLE_S = 3.0
"""A driver may count a new process's memory a moment late: a refusal is looked at again for so long."""
LOOK_EVERY_S = 0.25
FREE_LOOKS, SURELY_FREE = 5, 0.9
"""Looks at the memory of a card before a load; one look will do if so much of it is free."""


class CardWatch:
    """Heat and loss. ``tick`` belongs to the work loop and never waits; one reading at a time runs on a pool thread."""

    def __init__(
        self,
        reader: GpuReader,
        *,
        uuids: Sequence[str],
        settings: GpuSettings,
        log: logging.Logger,
        on_lost: Callable[[str], None] = lambda _reason: None,
    ) -> None:
        """``on_lost`` is called once per loss, on the pool's thread."""
        self._reader = reader
        self._uuids = tuple(uuids)
        self._settings = settings
        self._log = log
        self._on_lost = on_lost
        self._due_s = time.monotonic()
        self._asked_s: float | None = None
        self._verdict = CardVerdict()
        self._meter: EnergyMeter | None = None

    def meter(self) -> EnergyMeter | None:
        """Joules of the cards since they were first read; None where a driver does not say. From any thread."""
        return self._meter

    def tick(self, pool: ThreadPool) -> CardVerdict:
        """The latest verdict; starts the next reading when it is due."""
        now_s = time.monotonic()
        if self._asked_s is None and now_s >= self._due_s:
            self._asked_s = now_s
            pool.submit(self._look)
        elif self._asked_s is not None and now_s - self._asked_s > STALLED_AFTER_S:
            return CardVerdict(reason=f"the GPU driver has not answered for {now_s - self._asked_s:.0f} s")
        return self._verdict

    def _look(self) -> None:
        before = self._verdict
        try:
            readings: tuple[GpuReading, ...] = self._reader.read()
        except Exception:  # noqa: BLE001 - a thread's end is silent otherwise; cards without a reading are not judged
            self._log.exception("the cards cannot be read")
            readings = ()
        self._meter = metered(self._meter, readings, self._uuids, time.monotonic())
        after = self._verdict = judge_cards(readings, self._uuids, before, self._settings)
        self._due_s = time.monotonic() + self._settings.check_s
        self._asked_s = None
        if after.lost and not before.lost:
            self._log.error("Card lost: %s; running requests are cut", after.reason)
            self._on_lost(after.reason)
        elif after.reason and not before.reason:
            self._log.warning("Card not usable: %s", after.reason)
        elif before.reason and not after.reason:
            self._log.info("Card usable again")


def free_memory_mib(reader: GpuReader, uuids: Collection[str], total_mib: int | None) -> int | None:
    """Memory that others leave of these cards, read when the worker's own models are gone; None: not known.

    A driver counts the memory of a process that has just ended for a moment longer: the best of several looks counts.
    """
    best: int | None = None
    for look in range(FREE_LOOKS):
        mine = [card for card in reader.read() if card.uuid in uuids]
        sizes = [(card.memory_total_mib, card.memory_used_mib) for card in mine]
        if len(sizes) < len(uuids) or any(total is None or used is None for total, used in sizes):
            return total_mib
        free = sum((total or 0) - (used or 0) for total, used in sizes)
        best = free if best is None else max(best, free)
        if total_mib and best >= SURELY_FREE * total_mib:
            break
        if look < FREE_LOOKS - 1:
            time.sleep(LOOK_EVERY_S)
    return best


class PinProof:
    """Proof that the server's pin holds: the first load must show on this worker's own cards, and on no other.

    Used by loads, one at a time. Once proven it costs nothing; once refuted the worker refuses llm work for its life.
    """

    def __init__(
        self,
        reader: GpuReader,
        *,
        uuids: Collection[str],
        pids: Callable[[], Collection[int]],
        log: logging.Logger,
        settle_s: float = SETTLE_S,
    ) -> None:
        """``pids`` names the living processes of the server, its runners included."""
        self._reader = reader
        self._uuids = tuple(uuids)
        self._pids = pids
        self._log = log
        self._unproven = LogOnce(log)
        self._settle_s = settle_s
        self._proven = False
        self.refusal = ""
        """Why this worker takes no llm work; empty unless the pin was refuted."""

    def before(self) -> tuple[GpuReading, ...]:
        """To be called when the card is clear for the load; empty once the pin is proven."""
        return () if self._proven else self._reader.read()

    def check(self, model: str, before: tuple[GpuReading, ...], size_vram_mib: int) -> None:
        """To be called when the server says that the model is loaded. Raises ``TaskFault`` kind ``pin_refuted``."""
        if self._proven:
            return
        verdict = self._judge(before, size_vram_mib)
        match verdict.state:
            case "proven":
                self._proven = True
                self._log.info("Pin proven: %s", verdict.text)
            case "unknown":
                self._unproven.failing("pin", f"Pin not proven: {verdict.text}", logging.INFO)
            case "refuted":
                self.refusal = f"the pin does not hold: {verdict.text}; see `swarm doctor`, then restart this worker"
                self._log.error("%s loaded, but %s", model, self.refusal)
                raise TaskFault("deterministic", "pin_refuted", self.refusal)

    def _judge(self, before: tuple[GpuReading, ...], size_vram_mib: int) -> PinVerdict:
        end_s = time.monotonic() + self._settle_s
        while True:
            after = self._reader.read()
            verdict = judge_pin(before, after, uuids=self._uuids, promised_mib=size_vram_mib, pids=self._pids())
            if verdict.state != "refuted" or time.monotonic() >= end_s:
                return verdict
            time.sleep(LOOK_EVERY_S)
