"""Takes live requests on a Unix socket, and sends their answers piece by piece; on the worker's event loop.

* The head of an answer goes with its first piece: what fails before it may be tried elsewhere.
* A client that hangs up ends its run. One that reads slowly holds nobody up: the run goes on at the server's speed, and
  what its client has not taken for ``STALLED_S`` is dropped.
* Prompts and answers appear in no log.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import msgspec
from aiohttp import web

from swarm.core.faults import TaskFault
from swarm.core.live.live_request import MAX_BODY_BYTES, PATH, LiveFault, LiveRequest, Refusal, live_fault
from swarm.core.task import Trail
from swarm.runtime.event_loop import EventLoop
from swarm.worker.attempt import Released, Run
from swarm.worker.live.live_call import LiveCall, LiveModel
from swarm.worker.live.live_gate import LiveGate
from swarm.worker.live.live_socket import BACKLOG, LiveSocket

STALLED_S = 30.0
TOLD_AFTER_S = 0.05
"""The work loop is woken for a request that is still under way then: no turn of it stands before the first piece."""
_KEEP_ALIVE_S = 300.0
_NDJSON = {"Content-Type": "application/x-ndjson"}
_STOPPED = Refusal("draining", "the worker was stopped")
_decoder = msgspec.json.Decoder(LiveRequest)
log = logging.getLogger(__name__)


class LiveServer:
    """The server of one worker."""

    def __init__(self, gate: LiveGate, model: LiveModel, *, lost: Callable[[], str] = lambda: "") -> None:
        """``lost``: why nothing may be done for this root any more, empty while it is in place; asked for each request."""
        self._gate = gate
        self._model = model
        self._lost = lost
        self._runs: set[asyncio.Task[None]] = set()
        self._runner: web.ServerRunner | None = None
        self._socket: LiveSocket | None = None

    def start(self, socket: LiveSocket, loop: EventLoop) -> None:
        """Take requests on this socket until the loop is closed."""
        self._socket = socket
        loop.at_close(self._close)
        loop.call(self._listen(socket))
        self._gate.open = True

    async def _listen(self, socket: LiveSocket) -> None:
        server = web.Server(
            self._handle, handler_cancellation=True, access_log=None, keepalive_timeout=_KEEP_ALIVE_S, tcp_keepalive=False
        )
        self._runner = web.ServerRunner(server, handle_signals=False, shutdown_timeout=0.0)
        await self._runner.setup()
        await web.SockSite(self._runner, socket.listening, backlog=BACKLOG).start()  # it listens anew

    async def _close(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
        if self._socket is not None:
            self._socket.close()

    # -- one request -------------------------------------------------------------------------------------------------

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        self._gate.answering += 1
        try:
            return await self._answer(request)
        finally:
            self._gate.answering -= 1
            if self._gate.draining:
                self._gate.wake()

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        if (request.method, request.path) != ("POST", PATH):
            return _refusal(404, {"kind": "not_found", "message": f"this socket takes POST {PATH}"})
        try:
            raw = await _body(request)
            if raw is None:
                return _refusal(413, {"kind": "too_large", "message": f"more than {MAX_BODY_BYTES} bytes"})
            call = self._model.call(_decoded(raw))
            if why := self._lost():
                return _refusal(409, Refusal("unready", why))
            run = self._gate.enter(call.task, call.limit_s)
        except TaskFault as fault:
            return _failed(fault)
        if isinstance(run, Refusal):
            return _refusal(409, run)
        task = asyncio.get_running_loop().create_task(self._run(run, call))
        self._runs.add(task)
        task.add_done_callback(self._runs.discard)
        try:
            return await self._send(request, call)
        finally:
            if call.ending is None:  # its client has hung up, or takes nothing any more
                run.stop("cancelled")

    async def _run(self, run: Run, call: LiveCall) -> None:
        loop = asyncio.get_running_loop()
        waking = loop.call_later(TOLD_AFTER_S, self._gate.wake)
        try:
            await run.ask(call)
        finally:
            waking.cancel()
            call.end(run.ending)
            loop.call_soon(self._gate.ended, run)  # the last piece goes first: what this wakes would stand in its way

    async def _send(self, request: web.BaseRequest, call: LiveCall) -> web.StreamResponse:
        response: web.StreamResponse | None = None
        while True:
            await call.changed.wait()
            call.changed.clear()
            ending, lines = call.ending, call.take()
            if isinstance(ending, Trail):
                lines += call.line(call.last)
            elif ending is not None:
                if response is None:
                    return _failed(ending)
                lines += _error_line(ending)
            if response is None:
                response = _Stream(headers=_NDJSON)
                await response.prepare(request)
            await _write(request, response, lines, last=ending is not None)
            if ending is not None:
                return response


class _Stream(web.StreamResponse):
    """Its head is sent with the first lines, in one call."""

    _send_headers_immediately = False


async def _write(request: web.BaseRequest, response: web.StreamResponse, lines: bytes, *, last: bool) -> None:
    try:
        async with asyncio.timeout(STALLED_S):
            await (response.write_eof(lines) if last else response.write(lines))
    except TimeoutError as error:
        if request.transport is not None:
            request.transport.abort()
        raise ConnectionResetError(f"the client took nothing for {STALLED_S:g} s") from error


async def _body(request: web.BaseRequest) -> bytes | None:
    """None: it is too large."""
    whole = bytearray()
    while data := await request.content.readany():
        whole += data
        if len(whole) > MAX_BODY_BYTES:
            return None
    return bytes(whole)


def _decoded(raw: bytes) -> LiveRequest:
    try:
        return _decoder.decode(raw)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise TaskFault("deterministic", "bad_request", f"no live request: {error}") from error


def _told(ending: TaskFault | Released) -> LiveFault | Refusal:
    return _STOPPED if isinstance(ending, Released) else live_fault(ending)


def _failed(ending: TaskFault | Released) -> web.Response:
    told = _told(ending)
    return _refusal(409 if isinstance(told, Refusal) else told.status, told)


def _error_line(ending: TaskFault | Released) -> bytes:
    return msgspec.json.encode({"error": _told(ending)}) + b"\n"


def _refusal(status: int, error: object) -> web.Response:
    return web.Response(status=status, body=msgspec.json.encode({"error": error}), content_type="application/json")


def open_live_server(server: LiveServer, path: str, loop: EventLoop) -> None:
    """Take requests at this path; a worker whose socket cannot be made goes on without live requests, and says so."""
    try:
        server.start(LiveSocket(path), loop)
    except OSError as error:
        log.warning("No live requests: the socket %s cannot be made: %s", path, error.strerror or error)
