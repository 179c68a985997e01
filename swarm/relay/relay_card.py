"""One card of this node: its model servers, as a worker on another machine uses them.

What a worker has beside its card is here; what it has beside its queue is not: nothing is retried, repaired or remembered
unless it is asked for.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import msgspec

from swarm.clock import SystemClock
from swarm.core.faults import CancelToken, Progress, TaskFault
from swarm.core.models.engines import OLLAMA, engine_named
from swarm.core.models.model_server import LoadedModel, OnPiece, PullStep, Reply
from swarm.core.nodes.relay_wire import CardState, LoadAsk, LogPart, RepairAsk, RunAsk, UnloadAsk
from swarm.core.placement.worker_plan import WorkerPlan
from swarm.engines.engine_factory import model_server
from swarm.engines.ollama.parallel import fixed_parallel
from swarm.engines.ollama.quarantine import WorkerQuarantine
from swarm.engines.ollama.repair_actions import RepairActions
from swarm.engines.ollama.server import ServerProcess, client_of, running_server
from swarm.engines.ollama.server_spec import server_spec
from swarm.engines.processes.programs import program_of, version_of
from swarm.proc.env_markers import ROOT_MARKER, SERVER_MARKER
from swarm.relay.card_log import log_part
from swarm.relay.node_facts import NodeFacts, of_node, unique_uuid
from swarm.runtime.bootstrap import RunOptions
from swarm.supervisor import restarts
from swarm.supervisor.keeper import Keeper
from swarm.supervisor.keeper_factory import NEVER_READY_LIMIT, restart_policy
from swarm.supervisor.state import ChildState
from swarm.worker.attempt import Cancel
from swarm.worker.tuning.slot_wiring import own_parallel

QUESTIONS, LOADS = 8, 4
"""Threads: for what blocks for moments, and for what blocks for minutes."""
T = TypeVar("T")


class RelayCard:
    """Coroutines are for the event loop; ``keeper`` is for the thread that steps it. Starts nothing when made."""

    def __init__(
        self,
        plan: WorkerPlan,
        options: RunOptions,
        node: str,
        *,
        on_ready: Callable[[], None],
        vram_mib: Callable[[frozenset[int]], int],
        log: logging.Logger,
    ) -> None:
        """``on_ready``: wakes whoever steps the keeper. ``vram_mib``: as of ``engine_factory.model_server``."""
        self.plan = plan
        self._options = options
        self._node = node
        root, settings = options.root, options.settings
        self._root = root
        self._server = model_server(plan, settings, root=root, env=os.environ, log=log, vram_mib=vram_mib)
        self._parallel = own_parallel(options, plan, self._server, log, kept=lambda: True)
        self._slots_set = fixed_parallel(settings) if plan.owns_server else 0
        self._actions = RepairActions(plan.name, root=root, gpu_uuids=plan.gpu_uuids, limits=settings.repair)
        self._pools = ThreadPoolExecutor(QUESTIONS, plan.name), ThreadPoolExecutor(LOADS, f"{plan.name}-loads")
        self.keeper: Keeper | None = None
        if plan.owns_server:
            spec = server_spec(plan, settings, root=root, base_env=os.environ)
            self.keeper = Keeper(
                ServerProcess(spec, on_ready=on_ready),
                restart_policy(settings, NEVER_READY_LIMIT),
                SystemClock(),
                fault=plan.fault,
                book=WorkerQuarantine(root / "workers", plan.name, plan.gpu_uuids, settings.repair),
            )
            restarts.withdraw(root, self.keeper.process.name)  # asked of an earlier life

    # -- work --------------------------------------------------------------------------------------------------------

    async def run(self, ask: RunAsk, *, progress: Progress | None, on_piece: OnPiece | None) -> Reply:
        """One request; cancelling hangs up at the server. Raises ``TaskFault``."""
        with self._explained():
            reply = await self._server.run(
                ask.endpoint, ask.request, limits=ask.limits, progress=progress, marker=ask.marker, on_piece=on_piece
            )
        return reply if ask.pieces else msgspec.structs.replace(reply, last={})

    async def load(self, ask: LoadAsk) -> None:
        """Load a model, once its server runs for so many requests; cancelling aborts it. Raises ``TaskFault``."""
        cancel = Cancel()

        def work() -> None:
            order, timeout_s = ask.order, ask.timeout_s
            if self._parallel is not None:
                self._parallel.ensure(order.model, order.slots, timeout_s=timeout_s, cancel=cancel)
            self._server.load(order, timeout_s=timeout_s, cancel=cancel)

        try:
            await self._on_thread(work, loads=True)
        finally:
            cancel.cancel("cancelled")

    async def unload(self, ask: UnloadAsk) -> None:
        """Unload a model. Raises ``TaskFault``."""
        await self._on_thread(lambda: self._server.unload(ask.model, ask.timeout_s))

    def fetch(self, model: str, on_step: Callable[[PullStep], None], cancel: CancelToken) -> None:
        """Download a model through this card's server; blocks. Raises ``TaskFault``."""
        url = self.plan.ollama_url
        if url is None:
            what = f"nothing to download for {model}: {', '.join(self.plan.engines)} reads files that are on {self._node}"
            raise TaskFault("deterministic", "no_pull", what)
        with client_of(self.plan.name, url, root=self._root, adopted=self.plan.adopted) as client:
            client.pull(model, on_step, cancel=cancel)

    # -- questions ---------------------------------------------------------------------------------------------------

    async def ps(self, timeout_s: float) -> tuple[LoadedModel, ...]:
        """The models loaded now, with the requests at once that they were loaded for. Raises ``TaskFault``."""
        return await self._on_thread(lambda: self._held(timeout_s))

    async def tags(self, timeout_s: float) -> tuple[Any, ...]:
        """The models that could be loaded. Raises ``TaskFault``."""
        return await self._on_thread(lambda: tuple(self._server.tags(timeout_s)))

    async def show(self, model: str, timeout_s: float) -> Any:  # noqa: ANN401 - ModelDetails, as the server's
        """About one model. Raises ``TaskFault``."""
        return await self._on_thread(lambda: self._server.show(model, timeout_s))

    async def log(self, life: str, after: int) -> LogPart:
        """What has come to the log of its server. Raises ``OSError``."""
        name = "ollama" if self.plan.owns_server else "models"
        path = self._root / "logs" / f"{name}-{self.plan.name}.log"
        return await self._on_thread(lambda: log_part(path, life, after))

    async def repair(self, ask: RepairAsk) -> tuple[str, ...]:
        """End its runners, or its server, which is started again; what was ended, in words."""
        if ask.action == "kill_runners":
            return await self._on_thread(self._actions.kill_runners)
        return await self._on_thread(self._restarted)

    def state(self, facts: NodeFacts) -> CardState:
        """The card and its server, by what was looked up just now."""
        plan, mine = self.plan, [card for card in facts.readings if card.index in self.plan.gpus]
        status = self.keeper.status if self.keeper is not None else None
        reading = of_node(self._node, mine)
        return CardState(
            card=plan.name,
            uuid=unique_uuid(self._node, plan.gpu_uuids[0], simulated=plan.simulated),
            index=plan.gpus[0],
            name=mine[0].name if mine else "",
            vram_mib=plan.vram_mib,
            engines=plan.engines,
            simulated=plan.simulated,
            server=(status.state if status is not None else ChildState.RUNNING).value,
            reason=status.reason if status is not None else plan.fault or "",
            pids=facts.pids.get(plan.name, ()),
            readings=reading,
            restarts=status.restarts if status is not None else 0,
            slots=self._parallel.slots if self._parallel is not None else self._slots_set,
            slots_set=bool(self._slots_set),
        )

    async def versions(self) -> dict[str, str]:
        """By engine, as its server or program says; empty where it does not say."""
        return await self._on_thread(lambda: {name: self._version(name) for name in self.plan.engines})

    # -- life --------------------------------------------------------------------------------------------------------

    def adopt(self) -> list[str]:
        """Take over processes of an earlier life that serve one model each. Raises ``TaskFault``."""
        return self._server.adopt()

    def close(self, *, leave: bool) -> None:
        """End the processes that serve one model each, or ``leave`` them to the next life. Raises ``TaskFault``."""
        for pool in self._pools:
            pool.shutdown(wait=False, cancel_futures=True)
        if leave:
            self._server.release()
        else:
            self._server.close()

    async def close_work(self) -> None:
        """Close idle connections, on the event loop."""
        await self._server.close_work()

    # -- inside ------------------------------------------------------------------------------------------------------

    async def _on_thread(self, work: Callable[[], T], *, loads: bool = False) -> T:
        with self._explained():
            return await asyncio.get_running_loop().run_in_executor(self._pools[loads], work)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """A fault while the server is not up says how it is: who asked cannot see it."""
        try:
            yield
        except TaskFault as fault:
            status = self.keeper.status if self.keeper is not None else None
            if fault.fault != "infra" or status is None or status.state is ChildState.RUNNING:
                raise
            state = f"{status.state.value}{f': {status.reason}' if status.reason else ''}"
            what = f"the server of {self.plan.name} on {self._node} is {state} ({fault.message})"
            raise TaskFault(fault.fault, fault.kind, what, fault.result, alone=fault.alone) from fault

    def _held(self, timeout_s: float) -> tuple[LoadedModel, ...]:
        held = tuple(self._server.ps(timeout_s))
        if not self.plan.owns_server:
            return held
        markers = {SERVER_MARKER: self.plan.name, ROOT_MARKER: str(self._root)}
        note = running_server(self._root / "workers" / f"{self.plan.name}.server.json", markers)
        slots = note.slots if note is not None else 0
        return tuple(one if one.slots else msgspec.structs.replace(one, slots=slots) for one in held)

    def _restarted(self) -> tuple[str, ...]:
        waits = self.keeper is not None and self.keeper.state in (ChildState.BACKOFF, ChildState.QUARANTINED)
        ended = self._actions.restart_server()
        if self.keeper is not None and waits:  # for its next start, perhaps for long
            restarts.request_restart(self._root, self.keeper.process.name, now=True)
        return (ended,) if ended else ()

    def _version(self, name: str) -> str:
        if name == OLLAMA and self.plan.ollama_url is not None:
            try:
                with client_of(self.plan.name, self.plan.ollama_url, root=self._root, adopted=self.plan.adopted) as client:
                    return client.version()
            except TaskFault:
                return ""
        program = program_of(engine_named(self._options.settings, name), os.environ)
        return version_of(program.path, os.environ) if program is not None and program.path else ""
