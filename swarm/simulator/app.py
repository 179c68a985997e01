"""What all faces of a simulated server share: dispatch, counters, faults, and the simulation's own routes.

``/sim/state`` tells what it has done so far, ``/sim/knobs`` turns its knobs.
"""

from __future__ import annotations

import asyncio
import os
import signal
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import msgspec

from swarm.simulator import faults
from swarm.simulator.generation import Ask, Generation, Wire, embed
from swarm.simulator.http import ApiError, Request, Response
from swarm.simulator.knobs import Knobs, turned
from swarm.simulator.loaded_model import LoadedModel
from swarm.simulator.pace import curve_of, drift_of

Route = Callable[[Request, Response], Awaitable[None]]


class App(ABC):
    """One server. ``handle`` answers requests; ``knobs`` may be replaced at any time."""

    def __init__(self, knobs: Knobs, port: int) -> None:
        self.knobs = knobs
        self.port = port
        self.picker = faults.FaultPicker(knobs.seed)
        self.turned = asyncio.Event()
        """Set, and replaced by a new one, whenever knobs are turned."""
        self.requests = self.served = self.in_flight = 0
        """Requests for work (not for loading) that arrived, that were answered whole, that are here now."""
        self.evaluated = self.reused = 0
        """Prompt tokens worked through, and found in a slot's context, so far."""
        self.generated = 0
        """Tokens of answers."""
        self._routes: dict[tuple[str, str], Route] = {
            ("GET", "/sim/state"): self._state,
            ("POST", "/sim/knobs"): self._turn,
            **self.own_routes(),
        }
        self.methods: dict[str, list[str]] = {}
        for method, path in self._routes:
            self.methods.setdefault(path, []).append(method)

    @abstractmethod
    def own_routes(self) -> dict[tuple[str, str], Route]:
        """The routes of this face."""

    @abstractmethod
    def admits(self, request: Request, response: Response) -> bool:
        """Whether a request may be answered at all; if not, this has answered it."""

    @abstractmethod
    def refuse(self, request: Request, response: Response) -> None:
        """Answer a request for which there is no route."""

    @abstractmethod
    def fail(self, error: ApiError, response: Response) -> None:
        """Answer with an error, also in mid-stream."""

    @abstractmethod
    def more_state(self) -> dict[str, Any]:
        """What this face adds to ``/sim/state``."""

    @abstractmethod
    def end(self) -> None:
        """End of the server: what runs for it is killed."""

    async def handle(self, request: Request, response: Response) -> None:
        """Answer one request."""
        route = self._routes.get((request.method, request.path))
        try:
            if not request.path.startswith("/sim/") and not self.admits(request, response):
                return
            if route is None:
                self.refuse(request, response)
            else:
                await route(request, response)
        except ApiError as error:
            self.fail(error, response)

    def admit(self, request: Request, model: str, response: Response, *, embeds: bool = False) -> tuple[bool, str | None]:
        """Count a request for work, write it down, and decide whether it goes wrong.

        True if it has been answered already, and the fault that strikes later. Raises ``ApiError``.
        """
        if 0 <= self.knobs.exit_after <= self.requests:
            os.kill(os.getpid(), signal.SIGKILL)
        self.requests += 1
        if self.knobs.ledger:
            task = request.headers.get("x-swarm-task", "")
            at = datetime.now(UTC).isoformat().replace("+00:00", "Z")
            _append(
                self.knobs.ledger,
                {"at": at, "server": self.port, "task": task, "endpoint": request.path, "model": model},
            )
        fault = self.picker.draw(self.knobs, request.body)
        if 0 <= self.knobs.fail_after < self.requests:
            raise ApiError(400 if embeds else 500, self.knobs.fault_text)
        if fault in faults.FIRST:
            faults.fail_first(fault, self.knobs.fault_text, response)
            return True, fault
        return False, fault

    async def generate(self, ask: Ask, loaded: LoadedModel, prompt: str, wire: Wire) -> None:
        """Answer a request on a loaded model. ``prompt`` is what its slot's context will hold. Raises ``ApiError``."""
        slot = await loaded.slots.acquire(prompt)
        generation = Generation(ask, loaded, slot, self.knobs, wire, held=lambda: self._holds(ask))
        self.evaluated += slot.processed
        self.reused += slot.cached
        try:
            await generation.run()
        finally:
            loaded.slots.release(slot, "".join(generation.answer.text))
        self.served += 1
        self.generated += generation.answer.tokens

    def _holds(self, ask: Ask) -> bool:
        return bool(self.knobs.hold) and self.knobs.hold in ask.prompt

    async def embed(self, ask: Ask, loaded: LoadedModel) -> list[int]:
        """Embed the texts of a request; the tokens of each. Raises ``ApiError``."""
        slot = await loaded.slots.acquire("")
        try:
            counts = await embed(ask, loaded, self.knobs)
        finally:
            loaded.slots.release(slot)
        self.evaluated += sum(counts)
        self.served += 1
        return counts

    async def _state(self, _: Request, response: Response) -> None:
        state = {
            "simulated": True,
            "pid": os.getpid(),
            "port": self.port,
            "requests": self.requests,
            "served": self.served,
            "in_flight": self.in_flight,
            "prompt_tokens_evaluated": self.evaluated,
            "prompt_tokens_reused": self.reused,
            "tokens_generated": self.generated,
            "faults": self.picker.drawn,
            **self.more_state(),
            "knobs": self.knobs,
        }
        response.send_object(state)

    async def _turn(self, request: Request, response: Response) -> None:
        """An unknown name or a wrong value changes nothing."""
        try:
            changes = msgspec.json.decode(request.body, type=dict[str, Any])
            knobs = turned(self.knobs, changes)
            check(knobs)
        except (msgspec.DecodeError, ValueError) as error:
            raise ApiError(400, f"simulated: {error}") from error
        self.knobs = knobs
        self.picker.turned()
        event, self.turned = self.turned, asyncio.Event()
        event.set()
        await self._state(request, response)


def check(knobs: Knobs) -> None:
    """Raises ``ValueError`` for a fault, curve or drift that is none."""
    faults.check(knobs)
    curve_of(knobs.curve)
    drift_of(knobs.drift)


def _append(path: str, entry: dict[str, object]) -> None:
    """One line in one write: whole even with many servers on one file, and there even if this process dies next."""
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, msgspec.json.encode(entry) + b"\n")
    finally:
        os.close(fd)
