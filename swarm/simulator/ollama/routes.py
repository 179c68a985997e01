"""The routes of a simulated Ollama, and the state they share."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from typing import Any

import msgspec

from swarm.simulator import made_up_text as answers
from swarm.simulator.app import App, Route
from swarm.simulator.cards import Cards, card_dirs
from swarm.simulator.generation import Ask
from swarm.simulator.http import TEXT, ApiError, Request, Response
from swarm.simulator.knobs import Knobs
from swarm.simulator.ollama.call import (
    CHAT,
    EMBED,
    GENERATE,
    Call,
    check_abilities,
    load_options,
    model_name,
    read_body,
    read_call,
)
from swarm.simulator.ollama.environment import ServerEnv
from swarm.simulator.ollama.model_store import ModelStore, delete, pull, show, tags_entry
from swarm.simulator.ollama.ollama_wire import NS, OllamaWire, now_text
from swarm.simulator.ollama.scheduler import ModelInMemory, Scheduler

VERSION = "0.0.0-simulated"


class OllamaApp(App):
    """One simulated Ollama."""

    def __init__(self, knobs: Knobs, env: ServerEnv, port: int) -> None:
        super().__init__(knobs, port)
        self.env = msgspec.structs.replace(env, port=port)
        self.store = ModelStore(knobs.models, env.models_dir, prune=env.prune)
        self.scheduler = Scheduler(env, Cards(card_dirs(knobs.card_dir)), lambda: self.knobs)
        self._hostname = socket.gethostname().lower()

    def own_routes(self) -> dict[tuple[str, str], Route]:
        return {
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
        }

    def admits(self, request: Request, response: Response) -> bool:
        """Ollama's guard against foreign pages that resolve their name to the loopback."""
        if self._is_local(request.headers.get("host", "")):
            return True
        response.send(403, b"", "")
        return False

    def refuse(self, request: Request, response: Response) -> None:
        """Neither is JSON, as from any web server."""
        methods = self.methods.get(request.path)
        if methods is None:
            response.send(404, b"404 page not found", "text/plain")
        else:
            body = b"" if request.method == "HEAD" else b"405 method not allowed"
            response.send(405, body, "text/plain", extra=f"Allow: {', '.join(methods)}\r\n")

    def fail(self, error: ApiError, response: Response) -> None:
        if response.started:
            response.line({"error": error.text}, last=True)
        else:
            response.send_object({"error": error.text}, error.status)

    def end(self) -> None:
        self.scheduler.kill_all()

    def more_state(self) -> dict[str, Any]:
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
        return {
            "queued_loads": self.scheduler.queued,
            "loads": self.scheduler.loads,
            "unloads": self.scheduler.unloads,
            "runners": runners,
            "environment": self.env,
        }

    def _is_local(self, host: str) -> bool:
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

    async def _infer(self, request: Request, response: Response) -> None:
        call = read_call(request.path, request.body, asyncio.get_running_loop().time())
        if not call.empty:
            answered, call.fault = self.admit(request, call.name, response, embeds=call.endpoint == EMBED)
            if answered:
                return
        self.in_flight += 1
        try:
            await self._serve(call, response)
        finally:
            self.in_flight -= 1

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
        ask = _ask(call)
        longest = max(map(answers.count_tokens, [ask.prompt, *ask.texts]))
        if call.body.get("truncate") is False and longest > loaded.num_ctx:
            raise ApiError(400, "the input length exceeds the context length")
        if call.endpoint != EMBED:
            prompt = ask.prompt[: loaded.num_ctx * answers.CHARS_PER_TOKEN]
            await self.generate(ask, loaded, prompt, OllamaWire(call, response, loaded.num_ctx))
            return
        loop = asyncio.get_running_loop()
        start = loop.time()
        try:
            counts = await self.embed(ask, loaded)
        except ApiError as error:  # as in the real one, 400 for whatever fails after loading
            raise ApiError(400, error.text) from error
        metrics = {
            "total_duration": int((loop.time() - call.arrived) * NS),
            "load_duration": int((start - call.arrived) * NS),
            "prompt_eval_count": sum(min(count, loaded.num_ctx) for count in counts),
        }
        vectors = [answers.vector(text, call.body.get("dimensions")) for text in ask.texts]
        counters = {name: value for name, value in metrics.items() if value}
        response.send_object({"model": call.name, "embeddings": vectors, "simulated": True, **counters})


def _ask(call: Call) -> Ask:
    body = call.body
    if call.endpoint == EMBED:
        value = body.get("input")
        texts = [str(one) for one in (value if isinstance(value, list) else [value])]
        return Ask(call.arrived, texts=texts, fault=call.fault)
    tools = (call.endpoint == CHAT and body.get("tools")) or []
    return Ask(
        call.arrived,
        prompt=answers.prompt_of(body),
        limit=int(call.options.get("num_predict") or -1),
        form=body.get("format"),
        thinks=body.get("think") is not False,
        tool=str(tools[0].get("function", {}).get("name", "")) if tools else "",
        stream=call.stream,
        fault=call.fault,
    )


def _done(call: Call, reason: str) -> dict[str, object]:
    said = {"message": {"role": "assistant", "content": ""}} if call.endpoint == CHAT else {"response": ""}
    done = {"model": call.name, "created_at": now_text(), "done": True, "done_reason": reason}
    return {**done, **said, "simulated": True}
