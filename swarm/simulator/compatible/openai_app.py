"""What the faces share that speak OpenAI's API: how a request is served."""

from __future__ import annotations

import asyncio
import base64
import os
import struct
import sys
from abc import abstractmethod
from collections.abc import Callable
from typing import Any

from swarm.simulator import made_up_text as answers
from swarm.simulator.app import App
from swarm.simulator.compatible.openai_request import OpenAiRequest, read_request
from swarm.simulator.compatible.openai_wire import EVENTS, NativeWire, OpenAiWire, Style, event, kind_of
from swarm.simulator.generation import Wire
from swarm.simulator.http import ApiError, Request, Response
from swarm.simulator.knobs import Knobs
from swarm.simulator.loaded_model import LoadedModel

IMPOSTORS = {
    "html": (b"<html><head><title>Sign in</title></head><body>simulated portal</body></html>", "text/html"),
    "json": (b'{"status": "ok", "service": "simulated something else"}', "application/json"),
    "text": (b"hello, this is something else (simulated)", "text/plain"),
}
"""What another program would answer to every request, by value of the knob ``impostor``."""


class OpenAiApp(App):
    """A server of one or more models that are loaded for good. ``stop`` ends the process with a status."""

    style: Style

    def __init__(self, knobs: Knobs, port: int, stop: Callable[[int], None]) -> None:
        super().__init__(knobs, port)
        self.models: list[LoadedModel] = []
        self.stop = stop

    @abstractmethod
    def find(self, name: str) -> LoadedModel:
        """The model a request names. Raises ``ApiError``."""

    @abstractmethod
    def error_document(self, error: ApiError) -> dict[str, Any]:
        """An error in this face's form."""

    @abstractmethod
    def check(self, request: OpenAiRequest, loaded: LoadedModel) -> None:
        """Raises ``ApiError`` where the model cannot do what is asked, or the request is too long."""

    def admits(self, request: Request, response: Response) -> bool:
        del request
        if self.knobs.impostor == "no":
            return True
        body, kind = IMPOSTORS[self.knobs.impostor]
        response.send(200, body, kind)
        return False

    def fail(self, error: ApiError, response: Response) -> None:
        if response.started:
            response.raw(event(self.error_document(error)), last=True, content_type=EVENTS)
        else:
            response.send_object(self.error_document(error), error.status)

    def end(self) -> None:
        for one in self.models:
            one.mark_ended()

    def more_state(self) -> dict[str, Any]:
        runners = [
            {
                "model": one.model.name,
                "pid": os.getpid(),
                "port": self.port,
                "slots": one.parallel,
                "in_use": sum(slot.busy for slot in one.slots.all),
                "size_mib": one.size_mib,
                "vram_mib": one.vram_mib,
                "num_ctx": one.num_ctx,
            }
            for one in self.models
        ]
        return {"loads": len(runners), "runners": runners}

    async def infer(self, request: Request, response: Response) -> None:
        """Serve a chat, completion or embeddings request."""
        asked = read_request(kind_of(request.path), request.body, asyncio.get_running_loop().time())
        answered, asked.ask.fault = self.admit(request, asked.model, response)
        if answered:
            return
        loaded = self.find(asked.model)
        self.check(asked, loaded)
        self.in_flight += 1
        try:
            if asked.kind == "embedding":
                await self._embed(asked, loaded, response)
            else:
                await self.generate(asked.ask, loaded, asked.ask.prompt, self._wire(asked, loaded, response))
        finally:
            self.in_flight -= 1

    def _wire(self, asked: OpenAiRequest, loaded: LoadedModel, response: Response) -> Wire:
        name = loaded.model.name
        return NativeWire(asked, response, name) if asked.kind == "native" else OpenAiWire(asked, response, name, self.style)

    async def _embed(self, asked: OpenAiRequest, loaded: LoadedModel, response: Response) -> None:
        counts = await self.embed(asked.ask, loaded)
        data = [
            {"index": n, "object": "embedding", "embedding": _as_base64(vector) if asked.base64 else vector}
            for n, vector in enumerate(answers.vector(text, asked.body.get("dimensions")) for text in asked.ask.texts)
        ]
        answer = {"object": "list", "model": asked.model or loaded.model.name, "data": data, "simulated": True}
        if self.style.usage:
            answer["usage"] = {"prompt_tokens": sum(counts), "total_tokens": sum(counts)}
        response.send_object(answer)


def say(lines: str) -> None:
    """Write to the log, as the real ones do: on stderr."""
    sys.stderr.write(lines + "\n")
    sys.stderr.flush()


def _as_base64(vector: list[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
