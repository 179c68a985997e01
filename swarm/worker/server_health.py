"""Whether a worker may use its model server and its cards: readings and a circuit breaker.

Owned by the work loop. Looks run on a pool thread: ``/api/ps`` may stall for seconds in normal life. With a prober, a fault
that either side may have caused is judged first (``fault_inquiry``); without one its class alone decides, and a task is the
trial of a broken server.
"""

from __future__ import annotations

from collections.abc import Sequence
from queue import Empty, SimpleQueue
from time import monotonic

from swarm.core.health.circuit_breaker import Breaker, after_infra_fault, after_success, position
from swarm.core.health.gpu_health import CardVerdict
from swarm.core.policy.slots import Occupancy
from swarm.core.task import TaskClass
from swarm.worker.attempt import Run, ThreadPool
from swarm.worker.fault_inquiry import TICK_S, FaultInquiry, Unwanted
from swarm.worker.parts import WorkerParts
from swarm.worker.server_probe import ServerReading
from swarm.worker.slots import StartRules

USABLE_EVERY_S = 5.0
"""A server that works is asked this often; a request that fails asks at once."""
BROKEN_FIRST_S = 0.25
LATE_AFTER_S = 30.0
"""A look that takes longer counts as "not usable" until it ends."""


class ServerHealth:
    """Health of a worker's model server, if it has one, and of its cards."""

    def __init__(self, parts: WorkerParts, pool: ThreadPool) -> None:
        self._probe = parts.probe
        self._cards = parts.cards
        self._pool = pool
        self._log = parts.log
        self._inquiry = None if parts.prober is None else FaultInquiry(parts, pool)
        self._arrived: SimpleQueue[tuple[int, ServerReading]] = SimpleQueue()
        self._generation = 0
        self._asked_s: float | None = None
        self._due_s = monotonic()
        self._failures = 0
        self._suspect = False
        self._breaker = Breaker()
        self._proof = ""
        self.reading: ServerReading | None = None
        """The latest; None until the first has come."""
        self.cards = CardVerdict()
        """How this worker's cards are."""

    # -- the parts of a tick -----------------------------------------------------------------------------------------

    def judge(self, ended: list[Run], runs: Sequence[Run], *, unwanted: Unwanted, give_up: bool) -> list[Run]:
        """Learn from what ended; returns what is decided: whom to blame for some has to be found out first."""
        decided: list[Run] = []
        if self._inquiry is not None:
            ended = [run for run in ended if not self._inquiry.takes(run, runs)]
            for problem in self._inquiry.take_probes():
                self.faulted(problem) if problem else self.succeeded()
            loaded = None if self.reading is None else self.reading.loaded
            decided = self._inquiry.tick(runs, unwanted=unwanted, give_up=give_up, loaded=loaded, trial=self._trial_due)
        for run in ended:
            if self._probe is not None and run.begun and run.uses_server:
                self._learn(run)
        return [*ended, *decided]

    def look(self, *, loading: bool) -> ServerReading | None:
        """A reading that has just come and counts; asks for the next when due.

        While ``loading`` nothing is asked: the answer would tell of neither the old model nor the new one.
        """
        if self._probe is None:
            return None
        fresh = self._take_readings()
        if self._asked_s is None and not loading and monotonic() >= self._due_s:
            self._ask()
        return None if loading or fresh is None or not fresh.usable else fresh

    def check_cards(self) -> CardVerdict:
        """The verdict on this worker's cards; starts the next reading when it is due."""
        if self._cards is not None:
            self.cards = self._cards.tick(self._pool)
        return self.cards

    def start_rules(self, waiting: Sequence[Run]) -> StartRules:
        """How what is ``waiting`` in a slot may start."""
        if self._inquiry is None or not waiting:
            return StartRules()
        return self._inquiry.start_rules(alone=next((run.claim.task for run in waiting if run.alone), None))

    # -- what it knows -----------------------------------------------------------------------------------------------

    def closed_reason(self, held: Occupancy) -> str:
        """Why no llm or resource task may start beside those held; empty if one may."""
        return self.closed(in_flight=held.uses_server)

    def closed(self, *, in_flight: bool) -> str:
        """The same, where ``in_flight`` says whether a request or a load runs already."""
        if self._probe is None:
            return "it has no model server"
        closed = self.cards.reason or self.refusal(in_flight=in_flight)
        return closed or ("" if self._inquiry is None else self._inquiry.closed_reason)

    def refusal(self, *, in_flight: bool) -> str:
        """The same, as far as the server itself is the reason. ``in_flight``: some run already."""
        now_s = monotonic()
        if self.reading is None:
            return "model server has not been checked yet"
        if not self.reading.usable:
            return f"model server not usable: {self.reading.reason}"
        if self._asked_s is not None and now_s - self._asked_s > LATE_AFTER_S:
            return f"model server not usable: no answer to a status request for {LATE_AFTER_S:.0f} s"
        match position(self._breaker, now_s):
            case "open":
                return f"{self._trouble()}; waiting before the next try"
            case "trial" if in_flight or (self._inquiry is not None and self.reading.loaded is not None):
                return f"{self._trouble()}; trying whether the server works again"
            case _:
                return "checking the model server after a fault" if self._suspect else ""

    @property
    def unready(self) -> bool:
        """The worker should say that it refuses llm work (a mere check after one fault is not worth saying)."""
        if self._probe is None:
            return False
        if self.reading is None or not self.reading.usable:
            return True
        return position(self._breaker, monotonic()) == "open"

    @property
    def _trial_due(self) -> bool:
        """The circuit was open long enough, and the server says that it holds a model: time to probe that."""
        known = self.reading is not None and self.reading.usable and self.reading.loaded is not None and not self._suspect
        return known and position(self._breaker, monotonic()) == "trial"

    def longest_pause_s(self, waiting: Sequence[Run]) -> float:
        """Seconds to the next tick at most."""
        if self._inquiry is None:
            return float("inf")
        return TICK_S if self._inquiry.pressing or self._trial_due or (waiting and self._inquiry.careful) else float("inf")

    # -- what is reported to it ----------------------------------------------------------------------------------------

    def ask_soon(self) -> None:
        """Look in the next tick, and drop the answer of a look under way: it may be outdated."""
        self._generation += 1
        self._asked_s = None
        self._due_s = monotonic()

    def faulted(self, proof: str = "") -> None:
        """A request met an infra fault: the server is suspect until it has been looked at again.

        ``proof``: what a probe of known good met; the server is broken then, not only suspect.
        """
        now_s = monotonic()
        before = position(self._breaker, now_s)
        self._breaker = after_infra_fault(self._breaker, now_s, proven=bool(proof))
        self._proof = proof or self._proof
        if before != "open" and position(self._breaker, now_s) == "open":
            wait_s = self._breaker.open_until_s - now_s
            self._log.warning("Circuit open: %s; no llm work for %.0fs", self._trouble(), wait_s)
        if not self._suspect:
            self._suspect = True
            self.ask_soon()

    def succeeded(self) -> None:
        """Record that a request succeeded."""
        if self._breaker.tripped:
            self._log.info("Circuit closed: the server answers again")
        if self._breaker.faults:
            self._breaker = after_success(self._breaker)
            self._proof = ""

    # -- inside ------------------------------------------------------------------------------------------------------

    def _learn(self, run: Run) -> None:
        if run.proves_server:
            self.succeeded()
        elif run.verdict == "infra":
            self.faulted()
        if run.claim.task.task_class is TaskClass.RESOURCE:
            self.ask_soon()

    def _trouble(self) -> str:
        faults = f"{self._breaker.faults} server fault{'s' if self._breaker.faults > 1 else ''} in a row"
        return f"{faults}, and a probe failed too: {self._proof}" if self._proof else faults

    def _take_readings(self) -> ServerReading | None:
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
        self._due_s = monotonic() + (USABLE_EVERY_S if reading.usable else min(USABLE_EVERY_S, backoff_s))
        before, self.reading = self.reading, reading
        if not reading.usable and (before is None or before.usable or before.reason != reading.reason):
            self._log.warning("Model server not usable: %s; no llm work until it answers", reading.reason)
        elif reading.usable and (before is None or not before.usable):
            self._log.info("Model server usable, model loaded: %s", reading.model or "none")

    def _ask(self) -> None:
        assert self._probe is not None
        probe, generation = self._probe, self._generation
        self._asked_s = monotonic()

        def look() -> None:
            try:
                reading = probe.look()
            except Exception as error:  # noqa: BLE001 - must show as an unusable server, not as a thread that is gone
                self._log.exception("the server probe failed")
                reading = ServerReading(usable=False, reason=f"the probe failed: {type(error).__name__}: {error}")
            self._arrived.put((generation, reading))

        self._pool.submit(look)
