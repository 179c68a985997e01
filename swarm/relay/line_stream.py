"""An answer in lines of JSON while something runs: what it says as it comes, a beat in between, its end.

The work ends with the connection: whoever hangs up, or is cut off for longer than the kernel waits, has it cancelled.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

import msgspec
from aiohttp import web

from swarm.core.faults import TaskFault
from swarm.core.models.model_server import PullStep
from swarm.core.nodes.relay_wire import BEAT_S, RelayLine, fault_on_wire
from swarm.runtime.logging import kind_and_place

GATHER_S = 0.25
"""Progress is told in sums of so long; pieces and ends are told at once."""
END_S = 5.0
"""How long the end of cancelled work is waited for."""
_encode = msgspec.json.Encoder().encode
log = logging.getLogger(__name__)


class LineStream:
    """One such answer. For the event loop's thread."""

    def __init__(self) -> None:
        self._progress = 0
        self._lines: list[RelayLine] = []
        self._heard = asyncio.Event()

    def progress(self, count: int) -> None:
        """So many new tokens."""
        self._progress += count
        self._heard.set()

    def piece(self, piece: dict[str, Any]) -> None:
        """A piece of the answer."""
        self._say(RelayLine(piece=piece, progress=self._taken()))

    def step(self, step: PullStep) -> None:
        """A step of a download."""
        self._say(RelayLine(pull=step))

    async def answer(self, request: web.Request, work: Coroutine[Any, Any, RelayLine]) -> web.StreamResponse:
        """Do the work; its result is the last line. A ``TaskFault`` of it is one too."""
        task = asyncio.create_task(work)
        task.add_done_callback(lambda _: self._heard.set())
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        try:
            await response.prepare(request)
            while not task.done():
                await self._pause(task)
                await response.write(self._text() or (b"" if task.done() else b"{}\n"))
            await response.write(self._text() + _encode(_last_line(task)) + b"\n")
            await response.write_eof()
        finally:
            if not task.done():
                task.cancel()
                await asyncio.wait({task}, timeout=END_S)
        return response

    async def _pause(self, task: asyncio.Task[RelayLine]) -> None:
        """Until there is something to say, at most a beat."""
        try:
            await asyncio.wait_for(self._heard.wait(), BEAT_S)
        except TimeoutError:
            return
        if not self._lines and not task.done():
            await asyncio.wait({task}, timeout=GATHER_S)
        self._heard.clear()

    def _say(self, line: RelayLine) -> None:
        self._lines.append(line)
        self._heard.set()

    def _text(self) -> bytes:
        lines, self._lines = self._lines, []
        if count := self._taken():
            lines.append(RelayLine(progress=count))
        return b"".join(_encode(line) + b"\n" for line in lines)

    def _taken(self) -> int:
        count, self._progress = self._progress, 0
        return count


def _last_line(task: asyncio.Task[RelayLine]) -> RelayLine:
    error = task.exception() if not task.cancelled() else relay_fault("the relay ends")
    if isinstance(error, TaskFault):
        return RelayLine(fault=fault_on_wire(error))
    if error is not None:
        log.error("a request failed in a way that was not foreseen: %s", kind_and_place(error))
        return RelayLine(fault=fault_on_wire(relay_fault(f"the relay failed: {type(error).__name__}")))
    return task.result()


def relay_fault(message: str) -> TaskFault:
    """What is wrong on this machine, and no fault of the request's."""
    return TaskFault("infra", "relay", message)
