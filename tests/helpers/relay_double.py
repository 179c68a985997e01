"""A relay that misbehaves on demand, in front of any server object. The real one is ``swarm.relay``."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Self

import msgspec
from aiohttp import web

from swarm.core.faults import TaskFault
from swarm.core.gpu_reading import GpuReading
from swarm.core.models.model_server import MIB
from swarm.core.nodes import relay_wire as wire
from swarm.core.nodes.relay_wire import CardState, NodeState, RelayFault, RelayLine
from swarm.engines.engine_dispatch import WorkerServer
from swarm.engines.remote.relay_address import RelayAddress
from swarm.engines.remote.relay_calls import RelayCalls
from swarm.worker.attempt import Cancel
from tests.helpers.blocking import wait_for

TOKEN = "test-token"
BEAT_S = 0.1
READING = GpuReading(index=0, uuid="box2/0", name="Simulated GPU", simulated=True, memory_total_mib=24576, memory_used_mib=0)
CARD = CardState(
    card="gpu0", uuid="box2/0", index=0, name="Simulated GPU", vram_mib=24576, simulated=True, pids=(7,), readings=(READING,)
)


class RelayDouble:
    """``with RelayDouble(server) as relay: relay.calls.state()``"""

    def __init__(self, server: WorkerServer) -> None:
        self.server = server
        self.card = CARD
        self.wire = wire.WIRE
        self.token = TOKEN
        self.silent = False
        """Accept what comes and say nothing, as a frozen machine does; what is under way falls silent too."""
        self.log = ""
        self.repairs: list[str] = []
        self.asked: list[str] = []
        self.port = 0
        self._runner: web.AppRunner | None = None
        self._calls: list[RelayCalls] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/cards/gpu0"

    @property
    def calls(self) -> RelayCalls:
        """A client with the right token."""
        return self.client()

    def client(self, token: str = TOKEN, *, url: str = "") -> RelayCalls:
        made = RelayCalls(RelayAddress(url=url or self.url, token=token, holder="id0 host:/root"))
        self._calls.append(made)
        return made

    def __enter__(self) -> Self:
        wait_for(self._start())
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for one in self._calls:
            one.close()
        self.stop()

    def stop(self) -> None:
        """Nobody listens any more, and what is under way is cut."""
        if self._runner is not None:
            wait_for(self._runner.cleanup())
            self._runner = None

    def start(self) -> None:
        """Again, on the same port."""
        wait_for(self._start())

    async def _start(self) -> None:
        app = web.Application(client_max_size=64 * MIB, middlewares=[self._guarded])
        app.add_routes([web.get("/node", self._node), web.route("*", "/cards/gpu0/{what}", self._of_card)])
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port)
        await site.start()
        self.port = self._runner.addresses[0][1]

    @web.middleware
    async def _guarded(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        self.asked.append(request.path.rpartition("/")[2])
        await self._awake()
        if request.headers.get("Authorization") != f"Bearer {self.token}":
            return _refused(401, TaskFault("infra", "forbidden", "the token is missing or wrong"))
        try:
            return await handler(request)
        except TaskFault as fault:
            return _refused(502, fault)

    async def _awake(self) -> None:
        while self.silent:
            await asyncio.sleep(0.02)

    async def _node(self, _request: web.Request) -> web.Response:
        return _json(
            NodeState(
                wire=self.wire, node="box2", life="1", version="9.9", engine_versions={"ollama": "1.2"}, cards=(self.card,)
            )
        )

    async def _of_card(self, request: web.Request) -> web.StreamResponse:
        body, query, server = await request.read(), request.query, self.server
        match request.match_info["what"]:
            case "state":
                return _json(self.card)
            case "ps":
                held = await asyncio.to_thread(server.ps, float(query["timeout_s"]))
                return _json(wire.HeldModels(tuple(held)))
            case "tags":
                return _json(wire.NodeModels(tuple(await asyncio.to_thread(server.tags, 5.0))))
            case "show":
                return _json(await asyncio.to_thread(server.show, query["model"], 5.0))
            case "unload":
                order = msgspec.json.decode(body, type=wire.UnloadAsk)
                await asyncio.to_thread(server.unload, order.model, order.timeout_s)
                return _json({})
            case "repair":
                self.repairs.append(msgspec.json.decode(body, type=wire.RepairAsk).action)
                return _json(wire.RepairDone(("pid 7",)))
            case "log":
                after = int(query["after"]) if query["life"] == "log-1" else 0
                return _json(wire.LogPart(life="log-1", after=len(self.log), text=self.log[after:]))
            case "run":
                return await self._lines(request, lambda say: self._run(msgspec.json.decode(body, type=wire.RunAsk), say))
            case _:
                return await self._lines(request, lambda _say: self._load(msgspec.json.decode(body, type=wire.LoadAsk)))

    async def _run(self, ask: wire.RunAsk, say: Callable[[RelayLine], None]) -> RelayLine:
        reply = await self.server.run(
            ask.endpoint,
            ask.request,
            limits=ask.limits,
            progress=(lambda count: say(RelayLine(progress=count))) if ask.progress else None,
            marker=ask.marker,
            on_piece=(lambda piece: say(RelayLine(piece=piece))) if ask.pieces else None,
        )
        return RelayLine(reply=reply if ask.pieces else msgspec.structs.replace(reply, last={}))

    async def _load(self, ask: wire.LoadAsk) -> RelayLine:
        cancel = Cancel()
        try:
            await asyncio.to_thread(self.server.load, ask.order, timeout_s=ask.timeout_s, cancel=cancel)
        finally:
            cancel.cancel("cancelled")
        return RelayLine(done=True)

    async def _lines(
        self, request: web.Request, work: Callable[[Callable[[RelayLine], None]], Awaitable[RelayLine]]
    ) -> web.StreamResponse:
        said: asyncio.Queue[RelayLine] = asyncio.Queue()
        response = web.StreamResponse()
        await response.prepare(request)

        async def to_the_end() -> None:
            try:
                said.put_nowait(await work(said.put_nowait))
            except TaskFault as fault:
                said.put_nowait(RelayLine(fault=wire.fault_on_wire(fault)))

        task = asyncio.create_task(to_the_end())
        try:
            while True:
                try:
                    line = await asyncio.wait_for(said.get(), BEAT_S)
                except TimeoutError:
                    line = RelayLine()
                await self._awake()
                await response.write(msgspec.json.encode(line) + b"\n")
                if line.reply is not None or line.done or line.fault is not None:
                    return response
        finally:
            task.cancel()


def _json(answer: Any, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(answer), status=status, content_type="application/json")


def _refused(status: int, fault: TaskFault) -> web.Response:
    error = RelayFault(fault=fault.fault, kind=fault.kind, message=fault.message)
    return _json(wire.RefusedAnswer(error=error), status)
