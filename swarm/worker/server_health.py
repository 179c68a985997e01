"""What a worker knows of its model server: readings taken beside the work loop, and a circuit breaker over faults.

Asks a model server what it holds, and judges whether that counts as loaded.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from queue import Empty, SimpleQueue
from typing import Literal, Protocol

import msgspec

from swarm.config.settings import ModelSettings
from swarm.core.faults import TaskFault
from swarm.core.health.circuit_breaker import Breaker, after_infra_fault, after_success, position
from swarm.core.model_options import ModelTable
from swarm.core.model_server import LoadedModel
from swarm.runtime.ports import Clock, ModelServer
from swarm.worker.slots import ThreadPool

USABLE_EVERY_S = 5.0
"""A server that works is asked this often; a request that fails asks at once."""
BROKEN_FIRST_S = 0.25
LATE_AFTER_S = 30.0
"""A look that takes longer counts as "not usable" until it ends."""


class ServerReading(msgspec.Struct, frozen=True, kw_only=True):
    """What the server said at one moment."""

    usable: bool
    """It answers, and could take requests."""
    model: str | None = None
    """Canonical name of the model it holds as configured and, by policy, on its card; None when cold."""
    digest: str = ""
    size_mib: int = 0
    size_vram_mib: int = 0
    context_length: int = 0
    reason: str = ""
    """Why it is not usable, or why what it holds does not count."""
    refused: dict[str, str] = msgspec.field(default_factory=dict)
    """The latter by model."""


class ServerProbe(Protocol):
    """Asks the model server how it is."""

    def look(self) -> ServerReading:
        """Ask now; bounded to some seconds. Trouble of the server is a reading, never an exception."""
        ...


class ServerWatch:
    """Owned by the work loop. Looks run on a pool thread: ``/api/ps`` may stall for seconds in normal life."""

    def __init__(
        self,
        probe: ServerProbe,
        *,
        pool: ThreadPool,
        wake: Callable[[], None],
        clock: Clock,
        log: logging.Logger,
        trials: bool = False,
    ) -> None:
        """``trials``: whether somebody probes when a trial is due; else a task is the trial."""
        self._trials = trials
        self._probe = probe
        self._pool = pool
        self._wake = wake
        self._clock = clock
        self._log = log
        self._arrived: SimpleQueue[tuple[int, ServerReading]] = SimpleQueue()
        self._generation = 0
        self._asked_s: float | None = None
        self._due_s = clock.mono_s()
        self._failures = 0
        self._suspect = False
        self._breaker = Breaker()
        self._proof = ""
        self.reading: ServerReading | None = None
        """The latest; None until the first has come."""

    def turn(self, *, loading: bool) -> ServerReading | None:
        """Once per turn: returns a reading that has just come, and asks for the next when due.

        While ``loading`` nothing is asked: the answer would tell of neither the old model nor the new one.
        """
        fresh = self._take()
        if self._asked_s is None and not loading and self._clock.mono_s() >= self._due_s:
            self._ask()
        return fresh

    def ask_soon(self) -> None:
        """Look in the next turn, and drop the answer of a look under way: the world has changed since it began."""
        self._generation += 1
        self._asked_s = None
        self._due_s = self._clock.mono_s()

    def faulted(self, proof: str = "") -> None:
        """A request met an infra fault: the server is suspect until it has been looked at again.

        ``proof``: what a probe of known good met; the server is broken then, not only suspect.
        """
        before = position(self._breaker, self._clock.mono_s())
        self._breaker = after_infra_fault(self._breaker, self._clock.mono_s(), proven=bool(proof))
        self._proof = proof or self._proof
        if before != "open" and position(self._breaker, self._clock.mono_s()) == "open":
            wait_s = self._breaker.open_until_s - self._clock.mono_s()
            self._log.warning("Circuit open: %s; no llm work for %.0fs", self._trouble(), wait_s)
        if not self._suspect:
            self._suspect = True
            self.ask_soon()

    def succeeded(self) -> None:
        """A request went well."""
        if self._breaker.tripped:
            self._log.info("Circuit closed: the server answers again")
        if self._breaker.faults:
            self._breaker = after_success(self._breaker)
            self._proof = ""

    @property
    def trial_due(self) -> bool:
        """The circuit was open long enough, and the server says that it holds a model: time to probe that."""
        known = self.reading is not None and self.reading.usable and self.reading.model is not None and not self._suspect
        return known and position(self._breaker, self._clock.mono_s()) == "trial"

    def _trouble(self) -> str:
        faults = f"{self._breaker.faults} server fault{'s' if self._breaker.faults > 1 else ''} in a row"
        return f"{faults}, and a probe failed too: {self._proof}" if self._proof else faults

    def closed_reason(self, *, in_flight: int) -> str:
        """Why no llm or resource task may start now; empty if one may. ``in_flight``: those running already."""
        if self.reading is None:
            return "model server not heard of yet"
        if not self.reading.usable:
            return f"model server not usable: {self.reading.reason}"
        if self._asked_s is not None and self._clock.mono_s() - self._asked_s > LATE_AFTER_S:
            return f"model server not usable: no answer to a status request for {LATE_AFTER_S:.0f} s"
        match position(self._breaker, self._clock.mono_s()):
            case "open":
                return f"{self._trouble()}; waiting before the next try"
            case "trial" if in_flight or (self._trials and self.reading.model is not None):
                return f"{self._trouble()}; trying whether the server works again"
            case _:
                return "checking the model server after a fault" if self._suspect else ""

    @property
    def unready(self) -> bool:
        """The worker should say that it refuses llm work (a mere check after one fault is not worth saying)."""
        if self.reading is None or not self.reading.usable:
            return True
        return position(self._breaker, self._clock.mono_s()) == "open"

    def _take(self) -> ServerReading | None:
        fresh: ServerReading | None = None
        while True:
            try:
                generation, reading = self._arrived.get_nowait()
            except Empty:
                return fresh
            if generation == self._generation:
                fresh = reading
                self._note(reading)

    def _note(self, reading: ServerReading) -> None:
        self._asked_s = None
        self._suspect = False
        self._failures = 0 if reading.usable else self._failures + 1
        backoff_s = BROKEN_FIRST_S * 2.0 ** min(self._failures - 1, 10)
        self._due_s = self._clock.mono_s() + (USABLE_EVERY_S if reading.usable else min(USABLE_EVERY_S, backoff_s))
        before = self.reading
        self.reading = reading
        if not reading.usable and (before is None or before.usable or before.reason != reading.reason):
            self._log.warning("Model server not usable: %s; no llm work until it answers", reading.reason)
        elif reading.usable and (before is None or not before.usable):
            self._log.info("Model server usable, model loaded: %s", reading.model or "none")

    def _ask(self) -> None:
        generation = self._generation
        self._asked_s = self._clock.mono_s()

        def look() -> None:
            try:
                reading = self._probe.look()
            except Exception as error:  # noqa: BLE001 - must show as an unusable server, not as a thread that is gone
                self._log.exception("the server probe failed")
                reading = ServerReading(usable=False, reason=f"the probe failed: {type(error).__name__}: {error}")
            self._arrived.put((generation, reading))
            self._wake()

        self._pool.submit(look)


LOOK_TIMEOUT_S = 5.0
SpillPolicy = Literal["refuse", "warn", "allow"]


class ModelServerProbe:
    """Fits ``ServerProbe``. A server that answers ``/api/ps`` within some seconds is usable."""

    def __init__(self, server: ModelServer, *, models: Mapping[str, ModelSettings], on_cpu_spill: SpillPolicy) -> None:
        self._server = server
        self._models = ModelTable(models)
        self._on_cpu_spill: SpillPolicy = on_cpu_spill

    def look(self) -> ServerReading:
        """Ask now."""
        try:
            held = self._server.ps(LOOK_TIMEOUT_S)
        except TaskFault as fault:
            return ServerReading(usable=False, reason=fault.message)
        return judge(held, self._models, on_cpu_spill=self._on_cpu_spill)


def judge(held: Sequence[LoadedModel], models: ModelTable, *, on_cpu_spill: SpillPolicy) -> ServerReading:
    """The first model that counts: on the card as the policy asks, and loaded with the configured context.

    One that somebody loaded with another ``num_ctx`` does not count: our first request would load it anew.
    """
    refused: dict[str, str] = {}
    for loaded in held:
        reason = refusal(loaded, models, on_cpu_spill=on_cpu_spill)
        if not reason:
            return ServerReading(
                usable=True,
                model=loaded.name,
                digest=loaded.digest,
                size_mib=loaded.size_mib,
                size_vram_mib=loaded.size_vram_mib,
                context_length=loaded.context_length,
            )
        refused[loaded.name] = reason
    return ServerReading(usable=True, reason="; ".join(refused.values()), refused=refused)


def refusal(loaded: LoadedModel, models: ModelTable, *, on_cpu_spill: SpillPolicy) -> str:
    """Why a loaded model does not count; empty if it does."""
    spilled = loaded.spilled
    if spilled and on_cpu_spill == "refuse":
        return f"{loaded.name} is not wholly on its card: {spilled}"
    wanted = models.of(loaded.name).options.get("num_ctx")
    if isinstance(wanted, int) and loaded.context_length > wanted:
        return f"{loaded.name} was loaded with num_ctx {loaded.context_length}, configured is {wanted}"
    return ""
