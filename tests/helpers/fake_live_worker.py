"""A stand-in for a worker that takes live requests: its process lock, registration, heartbeat, and a scripted socket.

What a request meets is taken from ``script``, one entry each; once that is empty every request is answered.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import msgspec
from aiohttp import web

from swarm.core.worker import Heartbeat, LivePlaces, WorkerStatus
from swarm.proc.identity import current
from swarm.queue.coordination import ProcessLock
from swarm.queue.file_queue import FileQueue
from swarm.queue.stores import registry
from swarm.runtime.bootstrap import own_row

MODEL = "llama3.2:3b"
COUNTS = {"done": True, "done_reason": "stop", "prompt_eval_count": 7, "eval_count": 3, "simulated": True}


@dataclass(frozen=True)
class Refuse:
    """A status before the first piece."""

    status: int
    kind: str = "busy"
    fault: str = "infra"
    message: str = "scripted"
    elsewhere: bool = True


@dataclass(frozen=True)
class Say:
    """Lines; then a line of error, a broken connection, or a wait for ``let_go``."""

    lines: tuple[dict[str, Any], ...] = ()
    error: dict[str, str] | None = None
    breaks: bool = False
    holds: bool = False
    """It waits in the midst, after the first line (if it has any)."""


def chat_lines(*texts: str, **last: Any) -> tuple[dict[str, Any], ...]:
    """The pieces of a chat, in Ollama's form."""
    said = [{"model": MODEL, "message": {"role": "assistant", "content": text}, "done": False} for text in texts]
    return (*said, {"model": MODEL, "message": {"role": "assistant", "content": ""}, **COUNTS, **last})


def _default(endpoint: str, request: dict[str, Any]) -> Say:
    match endpoint:
        case "/api/chat":
            return Say(chat_lines("one ", "two ", "three"))
        case "/api/generate":
            said = [{"model": MODEL, "response": text, "done": False} for text in ("one ", "two")]
            return Say((*said, {"model": MODEL, "response": "", **COUNTS}))
        case _:
            asked = request["input"]
            vectors = [[float(n), 0.5] for n in range(len(asked) if isinstance(asked, list) else 1)]
            return Say(({"model": MODEL, "embeddings": vectors, "prompt_eval_count": 4, "simulated": True},))


@dataclass
class FakeLiveWorker:
    """Serves on a thread of its own while ``running``."""

    queue: FileQueue
    name: str = "worker-1"
    model: str | None = MODEL
    limit: int = 2
    servable: tuple[str, ...] = (MODEL, "llama3.1:8b")
    script: list[Refuse | Say] = field(default_factory=list)
    asked: list[dict[str, Any]] = field(default_factory=list)
    in_flight: int = 0
    most_in_flight: int = 0
    cancelled: int = 0
    let_go: threading.Event = field(default_factory=threading.Event)
    _seq: int = 0
    _row: Any = None

    def beat(self, **fields: Any) -> None:
        """Write a heartbeat with these fields in place of what it says now."""
        self._seq += 1
        said = {
            "status": WorkerStatus.IDLE,
            "model": self.model,
            "servable": self.servable,
            "live": LivePlaces(limit=self.limit if self.model else 0),
        } | fields
        numbers = {"epoch": self._row.epoch, "seq": self._seq, "turn": self._seq}
        beat = Heartbeat(name=self.name, pid=os.getpid(), written_at="", **numbers, **said)
        self.queue.heartbeats().beat(beat)

    @contextmanager
    def running(self) -> Iterator[FakeLiveWorker]:
        """Hold the lock, be registered, serve the socket."""
        layout, storage = self.queue.layout, self.queue.storage
        lock = ProcessLock(layout, self.name)
        lock.acquire()
        row = msgspec.structs.replace(own_row(self.name, "worker"), url="http://127.0.0.1:9", engines=("openai",))
        self._row = msgspec.structs.replace(row, epoch=registry.next_epoch(layout, self.name), process=current())
        registry.register(layout, storage, self._row)
        storage.make_dir(layout.live)
        self.beat()
        loop, ready, ending = asyncio.new_event_loop(), threading.Event(), asyncio.Event()
        thread = threading.Thread(target=lambda: loop.run_until_complete(self._serve(ready, ending)))
        thread.start()
        assert ready.wait(30)
        try:
            yield self
        finally:
            self.let_go.set()
            loop.call_soon_threadsafe(ending.set)
            thread.join()
            loop.close()
            lock.release()

    async def _serve(self, ready: threading.Event, ending: asyncio.Event) -> None:
        app = web.Application(client_max_size=1 << 26)
        app.router.add_post("/run", self._run)
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        folder = os.open(self.queue.layout.live, os.O_PATH | os.O_DIRECTORY)
        await web.UnixSite(runner, f"/proc/self/fd/{folder}/{self.name}.sock").start()
        ready.set()
        await ending.wait()
        await runner.cleanup()
        os.close(folder)

    async def _run(self, request: web.Request) -> web.StreamResponse:
        asked = msgspec.json.decode(await request.read())
        self.asked.append(asked)
        met = self.script.pop(0) if self.script else _default(asked["endpoint"], asked["request"])
        if isinstance(met, Refuse):
            said: dict[str, Any] = {"kind": met.kind, "message": met.message}
            said |= {"retry_after_s": 1.0} if met.status == 409 else {"fault": met.fault, "elsewhere": met.elsewhere}
            return web.json_response({"error": said}, status=met.status)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            return await self._say(request, met)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.in_flight -= 1

    async def _say(self, request: web.Request, met: Say) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        async for line in self._lines(met):
            if not response.prepared:
                await response.prepare(request)
            await response.write(msgspec.json.encode(line) + b"\n")
        if met.breaks:
            assert request.transport is not None
            request.transport.abort()
        return response

    async def _lines(self, met: Say) -> AsyncIterator[dict[str, Any]]:
        lines: Iterable[dict[str, Any]] = met.lines
        for place, line in enumerate(lines):
            yield line
            if met.holds and place == 0:
                await self._held()
        if met.holds and not met.lines:
            await self._held()
        if met.error is not None:
            yield {"error": met.error}

    async def _held(self) -> None:
        while not self.let_go.is_set():
            await asyncio.sleep(0.005)
