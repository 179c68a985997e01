"""The routes of a simulated server, and the state they share.

``/sim/state`` and ``/sim/knobs`` are the simulation's own: what it has done so far, and turning its knobs.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import os
import signal
import socket
from collections.abc import Awaitable, Callable

import msgspec

from swarm.simulator import faults
from swarm.simulator.call import CHAT, EMBED, GENERATE, Call, check_abilities, load_options, model_name, read_body, read_call
from swarm.simulator.http import TEXT, ApiError, Request, Response
from swarm.simulator.inference import Generation, embed, now_text
from swarm.simulator.knobs import Knobs, ServerEnv, turned
from swarm.simulator.model_store import ModelStore, delete, pull, show, tags_entry
from swarm.simulator.runner import Cards
from swarm.simulator.scheduler import ModelInMemory, Scheduler

VERSION = "0.0.0-simulated"
Route = Callable[[Request, Response], Awaitable[None]]


class App:
    """One server. ``handle`` answers requests; ``knobs`` may be replaced at any time."""

    def __init__(self, knobs: Knobs, env: ServerEnv) -> None:
        self.knobs = knobs
        self.env = env
        self.store = ModelStore(knobs.models, env.models_dir, prune=env.prune)
        self.scheduler = Scheduler(env, Cards(_directories(knobs.card_dir)), lambda: self.knobs)
        self.picker = faults.FaultPicker(knobs.seed)
        self.turned = asyncio.Event()
        """Set, and replaced by a new one, whenever knobs are turned."""
        self.requests = self.served = self.in_flight = 0
        """Requests for work (not for loading) that arrived, that were answered whole, that are here now."""
        self._hostname = socket.gethostname().lower()
        self._routes: dict[tuple[str, str], Route] = {
            ("GET", "/"): self._root,
            ("HEAD", "/"): self._root,
            ("GET", "/api/version"): self._version,
            ("HEAD", "/api/version"): self._version,
            ("GET", "/api/ps"): self._ps,
            ("GET", "/api/tags"): self._tags,
            ("HEAD", "/api/tags"): self._tags,
            ("POST", "/api/show"): self._show,
            ("POST", "/api/pull"): self._pull,
            ("DELETE", "/api/delete"): self._delete,
            ("POST", GENERATE): self._infer,
            ("POST", CHAT): self._infer,
            ("POST", EMBED): self._infer,
            ("GET", "/sim/state"): self._state,
            ("POST", "/sim/knobs"): self._turn,
        }
        self._methods: dict[str, list[str]] = {}
        for method, path in self._routes:
            self._methods.setdefault(path, []).append(method)

    async def handle(self, request: Request, response: Response) -> None:
        """Answer one request."""
        if not self._is_local(request.headers.get("host", "")):
            response.send(403, b"", "")
            return
        route = self._routes.get((request.method, request.path))
        if route is None:
            self._refuse(request, response)
            return
        try:
            await route(request, response)
        except ApiError as error:
            if response.started:
                response.line({"error": error.text}, last=True)
            else:
                response.send_object({"error": error.text}, error.status)

    def _refuse(self, request: Request, response: Response) -> None:
        """Neither is JSON, as from any web server."""
        methods = self._methods.get(request.path)
        if methods is None:
            response.send(404, b"404 page not found", "text/plain")
        else:
            body = b"" if request.method == "HEAD" else b"405 method not allowed"
            response.send(405, body, "text/plain", extra=f"Allow: {', '.join(methods)}\r\n")

    def _is_local(self, host: str) -> bool:
        """Ollama's guard against foreign pages that resolve their name to the loopback."""
        name = host.rsplit(":", 1)[0] if host.rpartition(":")[2].isdigit() else host
        name = name.strip("[]").lower()
        if name in ("", "localhost", "127.0.0.1", self._hostname) or name.endswith((".localhost", ".local", ".internal")):
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        return address.is_loopback or address.is_private or address.is_unspecified

    async def _root(self, request: Request, response: Response) -> None:
        response.send(200, b"" if request.method == "HEAD" else b"Ollama is running (simulated)", TEXT)

    async def _version(self, request: Request, response: Response) -> None:
        response.send(200, b"" if request.method == "HEAD" else msgspec.json.encode({"version": VERSION}))

    async def _ps(self, _: Request, response: Response) -> None:
        while self.knobs.ps_hang:
            await self.turned.wait()
        models = sorted(self.scheduler.loaded, key=lambda one: one.expires_at(), reverse=True)
        response.send_object({"models": [one.ps_entry() for one in models]})

    async def _tags(self, request: Request, response: Response) -> None:
        if request.method == "HEAD":
            response.send(200, b"")
            return
        response.send_object({"models": [tags_entry(model) for model in self.store.all()]})

    async def _show(self, request: Request, response: Response) -> None:
        response.send_object(show(self.store, model_name(read_body(request.body))))

    async def _pull(self, request: Request, response: Response) -> None:
        await pull(self.store, self.knobs, read_body(request.body), response)

    async def _delete(self, request: Request, response: Response) -> None:
        delete(self.store, model_name(read_body(request.body)))
        response.send(200, b"")

    async def _state(self, _: Request, response: Response) -> None:
        runners = [
            {
                "model": one.model.name,
                "pid": one.process.pid if one.process else None,
                "port": one.process.port if one.process else None,
                "slots": one.parallel,
                "in_use": one.refs,
                "size_mib": one.size_mib,
                "vram_mib": one.vram_mib,
                "num_ctx": one.options.num_ctx,
            }
            for one in self.scheduler.loaded
        ]
        state = {
            "simulated": True,
            "pid": os.getpid(),
            "port": self.env.port,
            "requests": self.requests,
            "served": self.served,
            "in_flight": self.in_flight,
            "queued_loads": self.scheduler.queued,
            "loads": self.scheduler.loads,
            "unloads": self.scheduler.unloads,
            "faults": self.picker.drawn,
            "runners": runners,
            "environment": self.env,
            "knobs": self.knobs,
        }
        response.send_object(state)

    async def _turn(self, request: Request, response: Response) -> None:
        """An unknown name or a wrong value changes nothing."""
        try:
            knobs = turned(self.knobs, read_body(request.body))
            faults.check(knobs)
        except (msgspec.ValidationError, ValueError) as error:
            raise ApiError(400, f"simulated: {error}") from error
        self.knobs = knobs
        self.picker.turned()
        event, self.turned = self.turned, asyncio.Event()
        event.set()
        await self._state(request, response)

    async def _infer(self, request: Request, response: Response) -> None:
        call = read_call(request.path, request.body, asyncio.get_running_loop().time())
        if not call.empty:
            self._admit(call, request)
            if call.fault in faults.FIRST:
                faults.fail_first(call.fault, self.knobs.fault_text, response)
                return
        self.in_flight += 1
        try:
            await self._serve(call, response)
        finally:
            self.in_flight -= 1

    def _admit(self, call: Call, request: Request) -> None:
        """Count a request for work, write it down, and decide whether it goes wrong."""
        if 0 <= self.knobs.exit_after <= self.requests:
            os.kill(os.getpid(), signal.SIGKILL)
        self.requests += 1
        if self.knobs.ledger:
            task = request.headers.get("x-swarm-task", "")
            entry = {"at": now_text(), "server": self.env.port, "task": task, "endpoint": call.endpoint, "model": call.name}
            _append(self.knobs.ledger, entry)
        call.fault = self.picker.draw(self.knobs, request.body)
        if 0 <= self.knobs.fail_after < self.requests:
            raise ApiError(400 if call.endpoint == EMBED else 500, self.knobs.fault_text)

    async def _serve(self, call: Call, response: Response) -> None:
        model = self.store.get(call.name, embedding=call.endpoint == EMBED)
        if call.unloads:
            self.scheduler.unload(model)
            response.send_object(_done(call, "unload"))
            return
        check_abilities(call, model)
        options = load_options(call.options, call.body.get("shift"), self.env.context_length)
        loaded = await self.scheduler.acquire(model, options, call.keep_alive_s)
        try:
            if not call.empty:
                await self._work(call, loaded, response)
            elif call.endpoint == EMBED:
                response.send_object({"model": call.name, "embeddings": []})
            else:
                response.send_object(_done(call, "load"))
        finally:
            self.scheduler.release(loaded)

    async def _work(self, call: Call, loaded: ModelInMemory, response: Response) -> None:
        async with loaded.slots:
            if call.endpoint == EMBED:
                await embed(call, loaded, self.knobs, response)
            else:
                await Generation(call, loaded, self.knobs, response).run()
        self.served += 1


def _done(call: Call, reason: str) -> dict[str, object]:
    said = {"message": {"role": "assistant", "content": ""}} if call.endpoint == CHAT else {"response": ""}
    done = {"model": call.name, "created_at": now_text(), "done": True, "done_reason": reason}
    return {**done, **said, "simulated": True}


def _directories(text: str) -> list[str]:
    """One directory as it is, or a JSON list of several."""
    try:
        several = json.loads(text) if text.startswith("[") else None
    except ValueError:
        several = None
    return [str(one) for one in several] if isinstance(several, list) else [text] if text else []


def _append(path: str, entry: dict[str, object]) -> None:
    """One line in one write: whole even with many servers on one file, and there even if this process dies next."""
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, msgspec.json.encode(entry) + b"\n")
    finally:
        os.close(fd)
