"""Proof that the server's pin holds: the first load must show on this worker's own cards, and on no other."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection

from swarm.core.faults import TaskFault
from swarm.core.gpu import GpuReading
from swarm.core.health.gpu_health import PinVerdict, judge_pin
from swarm.runtime.ports import GpuReader
from swarm.worker.server_health import ServerProbe, ServerReading

SETTLE_S = 3.0
"""A driver may count a new process's memory a moment late: a refusal is looked at again for so long."""
LOOK_EVERY_S = 0.25


class PinProof:
    """Used by loads, one at a time. Once proven it costs nothing; once refuted the worker refuses llm work for its life."""

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
        self._settle_s = settle_s
        self._proven = False
        self._said = ""
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
                if verdict.text != self._said:
                    self._log.info("Pin not proven: %s", verdict.text)
                self._said = verdict.text
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


class PinnedProbe:
    """Fits ``ServerProbe``: a server whose pin was refuted is not usable, whatever it says of itself."""

    def __init__(self, probe: ServerProbe, pin: PinProof) -> None:
        self._probe = probe
        self._pin = pin

    def look(self) -> ServerReading:
        """Ask now."""
        if self._pin.refusal:
            return ServerReading(usable=False, reason=self._pin.refusal)
        return self._probe.look()
