"""The model server of a card in another machine. Fits what a worker asks of ``EngineDispatch``.

* One adapter for all engines: the relay chooses the engine, keeps the server, and enforces the limits of a request.
* A machine that is lost is an infra fault of a kind of its own (``LOST_NODE``): no request and no server is blamed for it.
* Nothing is retried here. Hanging up ends what was asked for over there.
"""

from __future__ import annotations

import http.client
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

import msgspec

from swarm.core.faults import CancelToken, Progress, TaskFault
from swarm.core.models.engines import OLLAMA
from swarm.core.models.model_server import (
    InstalledModel,
    Limits,
    LoadedModel,
    LoadOrder,
    ModelDetails,
    OnPiece,
    PullStep,
    Reply,
)
from swarm.core.nodes.relay_wire import (
    SILENT_S,
    HeldModels,
    LoadAsk,
    NodeModels,
    PullAsk,
    RelayLine,
    RunAsk,
    UnloadAsk,
    fault_from_wire,
)
from swarm.core.task import Endpoint
from swarm.engines.remote.relay_calls import ERROR_BYTES, ROUND_S, STATE_S, RelayCalls
from swarm.engines.remote.relay_faults import NodeDeadlines, answer_cut, fault_of_link, fault_of_refusal
from swarm.engines.remote.relay_lines import RelayLines
from swarm.engines.work_http import WorkHttp, WorkReply

PULL_S = 24 * 3600.0
_encode = msgspec.json.Encoder().encode


class RemoteServer:
    """Through one relay. Thread-safe but for ``run``, which is for one event loop."""

    def __init__(self, calls: RelayCalls, engine: str = OLLAMA) -> None:
        """``engine``: that of models which name none."""
        self._engine = engine
        self._calls = calls
        self._url = calls.address.url
        self._headers = calls.address.headers
        self._work = WorkHttp(self._url)

    async def run(
        self,
        endpoint: Endpoint,
        body: Mapping[str, Any],
        *,
        limits: Limits,
        progress: Progress | None = None,
        marker: str | None = None,
        on_piece: OnPiece | None = None,
    ) -> Reply:
        """One request in the native form; cancelling the awaiting task ends it over there."""
        ask = RunAsk(
            endpoint=endpoint,
            request=dict(body),
            limits=limits,
            marker=marker,
            pieces=on_piece is not None,
            progress=progress is not None,
        )
        raw = _written(ask)
        deadlines = NodeDeadlines(self._url, limits.total_s + SILENT_S, sent_bytes=len(raw))
        lines = RelayLines(self._url, deadlines, limits.max_reply_bytes)
        try:
            async with self._work.post("/run", raw, self._headers, deadlines) as reply:
                self._calls.heard()
                if reply.status != 200:
                    raise fault_of_refusal(reply.status, await _start(reply), self._url)
                answer = await self._answer(reply, lines, progress, on_piece)
                await reply.drain()
        except (TimeoutError, OSError, http.client.HTTPException) as error:
            late = isinstance(error, TimeoutError)
            raise self._calls.noted(deadlines.fault() if late else fault_of_link(error, self._url)) from error
        except TaskFault as fault:
            self._calls.noted(fault)
            raise
        return answer

    async def _answer(
        self, reply: WorkReply, lines: RelayLines, progress: Progress | None, on_piece: OnPiece | None
    ) -> Reply:
        async for data in reply.pieces():
            for line in lines.feed(data):
                if line.progress and progress is not None:
                    progress(line.progress)
                if line.piece is not None and on_piece is not None:
                    on_piece(line.piece)
                if line.fault is not None:
                    raise fault_from_wire(line.fault)
                if line.reply is not None:
                    return line.reply
        raise answer_cut(self._url)

    def load(self, order: LoadOrder, *, timeout_s: float = 600.0, cancel: CancelToken | None = None) -> object:
        """Preload it with its engine, there for as many requests at once as ordered."""
        ask = LoadAsk(order=order, timeout_s=timeout_s)
        self._calls.stream("/load", ask, timeout_s=timeout_s + SILENT_S, cancel=cancel)
        return None

    def unload(self, model: str, timeout_s: float = 30.0) -> None:
        """Unload it from whichever engine holds it."""
        self._calls.post("/unload", UnloadAsk(model=model, timeout_s=timeout_s), _Done, timeout_s + ROUND_S)

    def ps(self, timeout_s: float = 5.0) -> Sequence[LoadedModel]:
        """What is loaded there. A machine that was lost is asked for less first, so that its return is seen soon."""
        if self._calls.lost is not None:
            self._calls.state(STATE_S)
        return self._calls.get(f"/ps?timeout_s={timeout_s:g}", HeldModels, timeout_s + ROUND_S).models

    def tags(self, timeout_s: float = 10.0) -> Sequence[InstalledModel]:
        """The models that could be loaded there."""
        return self._calls.get(f"/tags?timeout_s={timeout_s:g}", NodeModels, timeout_s + ROUND_S).models

    def show(self, model: str, timeout_s: float = 10.0) -> ModelDetails:
        """What its engine knows of it."""
        path = f"/show?model={quote(model, safe='')}&timeout_s={timeout_s:g}"
        return self._calls.get(path, ModelDetails, timeout_s + ROUND_S)

    def pull(
        self, model: str, progress: Callable[[PullStep], None] | None = None, *, cancel: CancelToken | None = None
    ) -> None:
        """Download a model to that machine."""

        def told(line: RelayLine) -> None:
            if line.pull is not None and progress is not None:
                progress(line.pull)

        self._calls.stream("/pull", PullAsk(model=model), timeout_s=PULL_S, cancel=cancel, on_line=told)

    def version(self, timeout_s: float = 5.0) -> str:
        """Of the server over there, as its relay knows."""
        return self._calls.node(timeout_s + ROUND_S).engine_versions.get(self._engine, "")

    def adopt(self) -> list[str]:
        """The relay keeps what serves models; nothing is taken over here."""
        return []

    def release(self) -> None:
        """Close connections; what serves models stays with the relay."""
        self.close()

    def close(self) -> None:
        """The same at an orderly end."""
        self._calls.close()

    async def close_work(self) -> None:
        """Close the connections of ``run``, on its event loop."""
        await self._work.close()


class _Done(msgspec.Struct):
    """An answer that says no more than that it was done."""


def _written(ask: RunAsk) -> bytes:
    try:
        return _encode(ask)
    except (TypeError, ValueError, RecursionError) as error:
        raise TaskFault("deterministic", "bad_request", f"the request cannot be written as JSON: {error}") from error


async def _start(reply: WorkReply) -> bytes:
    start = bytearray()
    async for data in reply.pieces():
        start += data
        if len(start) > ERROR_BYTES:
            break
    return bytes(start)
