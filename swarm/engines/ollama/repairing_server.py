"""A model server that is repaired when it hangs or crashes, ever more strongly.

* Stands between a worker's executors and the client, and fits ``ModelServer``. Each repair is logged.
* What a request meets is repaired only once it is known to be the server's fault (``broke``); loads and status requests
  that fail are the server's anyway.
* Repairs run one at a time, on the thread that asks for them, or on one of their own for the event loop.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, assert_never

import msgspec

from swarm.config.settings import RepairSettings
from swarm.core.faults import CancelToken, Progress, TaskFault
from swarm.core.health.repair_ladder import Ladder, Rung, after_crash, after_hang, after_success, after_wedge
from swarm.core.models.model_server import Limits, LoadedModel, LoadOrder, ModelDetails, OnPiece, Reply
from swarm.core.task import Endpoint
from swarm.engines.engine_dispatch import EngineAdapter
from swarm.engines.ollama.parallel import ParallelSlots

HANGS = frozenset({"first_token_timeout", "token_gap_timeout", "probe_timeout"})
CRASHES = frozenset({"runner_died", "load_timeout"})
LOAD_CRASHES = CRASHES | {"timeout"}
"""Not ``load_failed`` nor want of room: the model may be to blame, or what else the host runs."""


class Repairs(Protocol):
    """What can be done about a server, and about its cards. Thread-safe; nothing raises."""

    def kill_runners(self) -> tuple[str, ...]:
        """End what runs its models; what was ended, in words."""
        ...

    def restart_server(self) -> str | None:
        """End it, to be started anew; what was ended, in words."""
        ...

    def quarantine(self, reason: str) -> str:
        """Take its cards out of use for a time; a line for the operator."""
        ...

    def quarantined(self) -> str:
        """Why its cards are quarantined; empty if they are not."""
        ...

    def on_trial(self) -> bool:
        """Whether a quarantine is due for its trial."""
        ...

    def recovered(self) -> None:
        """A request succeeded."""
        ...


class RepairingServer:
    """Fits ``ModelServer``; while its card is quarantined every call fails with kind ``quarantined``."""

    def __init__(
        self,
        server: EngineAdapter,
        actions: Repairs,
        limits: RepairSettings,
        *,
        log: logging.Logger,
        parallel: ParallelSlots | None = None,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._server = server
        self._actions = actions
        self._limits = limits
        self._log = log
        self._parallel = parallel
        self._now_s = now_s
        self._lock = threading.Lock()
        self._ladder = Ladder()
        self._silent_since_s: float | None = None
        self._heard_s = float("-inf")
        self._unanswered: list[str | None] = []
        """The tasks of requests in a row that timed out in silence."""

    async def run(
        self,
        endpoint: Endpoint,
        body: Mapping[str, Any],
        *,
        limits: Limits,
        progress: Progress | None,
        marker: str | None,
        on_piece: OnPiece | None = None,
    ) -> Reply:
        """As the server's; a load on its behalf that dies is answered by a repair before the fault goes on."""
        self._refuse_quarantined()
        began_s = self._now_s()

        def heard(count: int) -> None:
            self._heard_s = self._now_s()
            if progress is not None:
                progress(count)

        try:
            reply = await self._server.run(endpoint, body, limits=limits, progress=heard, marker=marker, on_piece=on_piece)
        except TaskFault as fault:
            if fault.kind == "load_timeout":
                await asyncio.to_thread(self._climb, fault, began_s)
            raise
        self._answered()
        return reply

    def load(self, order: LoadOrder, *, timeout_s: float, cancel: CancelToken | None) -> object:
        """As the server's, once that runs for ``slots``.

        Crashes and hangs count, since where no load succeeds there are no requests to be judged.

        A success proves too little to count: the model is there, but has answered nothing.
        """
        self._refuse_quarantined()
        if self._parallel is not None:
            self._parallel.ensure(order.model, order.slots, timeout_s=timeout_s, cancel=cancel)
        began_s = self._now_s()
        try:
            return self._server.load(order, timeout_s=timeout_s, cancel=cancel)
        except TaskFault as fault:
            if fault.kind in LOAD_CRASHES:
                self._climb(fault, began_s)
            raise

    def unload(self, model: str, timeout_s: float) -> None:
        """As the server's; allowed in quarantine, since it frees the card."""
        self._server.unload(model, timeout_s)

    def show(self, model: str, timeout_s: float) -> ModelDetails:
        """As the server's."""
        return self._server.show(model, timeout_s)

    def ps(self, timeout_s: float) -> Sequence[LoadedModel]:
        """As the server's. Silence for ``wedged_after_s`` in all is a wedged scheduler, and answered by a repair."""
        self._refuse_quarantined()
        began_s = self._now_s()
        try:
            held = self._server.ps(timeout_s)
        except TaskFault as fault:
            if fault.kind == "timeout":
                self._silent(began_s)
            raise
        self._silent_since_s = None
        return held if self._parallel is None else [self._with_slots(one, self._parallel) for one in held]

    @staticmethod
    def _with_slots(held: LoadedModel, parallel: ParallelSlots) -> LoadedModel:
        """Ollama does not say for how many it loaded a model; what it was started for does."""
        return held if held.slots or not parallel.serves(held.name) else msgspec.structs.replace(held, slots=parallel.slots)

    def unload_stuck(self, model: str, began_s: float) -> None:
        """A model that was ordered out at ``began_s`` (monotonic) is still there: its runner cannot end."""
        with self._lock:
            self._ladder, rung = after_wedge(self._ladder, self._limits, began_s=began_s, now_s=self._now_s())
            self._repair(rung, f"{model} does not unload")

    def broke(self, fault: TaskFault, task: str | None, began_s: float) -> bool:
        """A request that began at ``began_s`` (monotonic) met this fault, and it is the server's: climb the ladder.

        True: its runner or itself was ended, so that the next request has to load the model first.
        """
        rung: Rung | None = None
        if fault.kind in HANGS or fault.kind in CRASHES:
            rung = self._climb(fault, began_s)
        elif fault.kind == "timeout":
            rung = self._timed_out(task, began_s)
        return rung in ("kill_runner", "restart_server")

    def _answered(self) -> None:
        self._heard_s = self._now_s()
        with self._lock:
            self._unanswered.clear()
            if self._ladder.hangs or self._ladder.crashes:
                self._ladder = after_success(self._ladder)
                self._log.info("Server repaired: requests are answered again")
        self._actions.recovered()

    def _climb(self, fault: TaskFault, began_s: float) -> Rung | None:
        at_once = fault.kind in HANGS or self._actions.on_trial()
        after = after_hang if at_once else after_crash
        with self._lock:
            self._ladder, rung = after(self._ladder, self._limits, began_s=began_s, now_s=self._now_s())
            return self._repair(rung, fault.message)

    def _timed_out(self, task: str | None, began_s: float) -> Rung | None:
        """Where a request's whole limit ends before those on silence, what came lately tells a hang from a slow model.

        What came to other requests counts as well: they may share the runner, or wait for each other.
        """
        now_s = self._now_s()
        with self._lock:
            if self._heard_s > (began_s + now_s) / 2:
                self._unanswered.clear()
            elif began_s >= self._ladder.repaired_s:
                self._unanswered.append(task)
            if self._hung():
                why = f"{len(self._unanswered)} requests in a row timed out in silence"
                self._ladder, rung = after_wedge(self._ladder, self._limits, began_s=began_s, now_s=now_s)
                return self._repair(rung, why)
        return None

    def _hung(self) -> bool:
        """A task whose time is too short for its model is no hang, however often it is tried: two of them may be."""
        wanted = self._limits.timeouts
        return len(self._unanswered) >= wanted and len(set(self._unanswered)) >= min(wanted, 2)

    def _silent(self, began_s: float) -> None:
        with self._lock:
            since_s = max(self._silent_since_s or began_s, self._ladder.repaired_s)
            self._silent_since_s = since_s
            if self._now_s() - since_s < self._limits.wedged_after_s:
                return
            self._ladder, rung = after_wedge(self._ladder, self._limits, began_s=since_s, now_s=self._now_s())
            self._repair(rung, f"/api/ps has not answered for {self._now_s() - since_s:.0f} s")

    def _repair(self, rung: Rung | None, why: str) -> Rung | None:
        """Do it; the rung that was used."""
        if rung is not None and self._actions.on_trial():
            rung = "quarantine"
        match rung:
            case None:
                return None
            case "cancel":
                self._log.warning("Repair 1 of 4, request cut: %s", why)
            case "kill_runner":
                killed = self._actions.kill_runners()
                self._log.warning(
                    "Repair 2 of 4, runner killed: %s (%s)", why, "; ".join(killed) or "no runner of ours found"
                )
            case "restart_server":
                ended = self._actions.restart_server()
                self._log.warning(
                    "Repair 3 of 4, server stopped for a restart: %s (%s)",
                    why,
                    ended or "no server of ours that a supervisor would start again",
                )
            case "quarantine":
                self._log.error("Repair 4 of 4, quarantined: %s; %s", why, self._actions.quarantine(why))
            case _:
                assert_never(rung)
        self._silent_since_s = None
        self._unanswered.clear()
        return rung

    def _refuse_quarantined(self) -> None:
        reason = self._actions.quarantined()
        if reason:
            raise TaskFault("infra", "quarantined", reason)
