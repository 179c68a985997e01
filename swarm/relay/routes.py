"""The relay's HTTP side: who may ask, who holds a card, and an answer for each path of ``core.nodes.relay_wire``.

* Without the token nothing is answered but 401, whatever was asked for, and no body is read.
* Neither requests nor answers are logged.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, NoReturn, TypeVar

import msgspec
from aiohttp import web

from swarm import __version__
from swarm.core.faults import FaultClass, TaskFault
from swarm.core.nodes.relay_wire import (
    HOLDER,
    WIRE,
    WIRE_HEADER,
    HeldModels,
    LoadAsk,
    NodeModels,
    NodeState,
    PullAsk,
    RefusedAnswer,
    RelayFault,
    RelayLine,
    RepairAsk,
    RepairDone,
    RunAsk,
    UnloadAsk,
    fault_on_wire,
)
from swarm.plain_text import one_line
from swarm.relay.card_holders import CardHolder
from swarm.relay.line_stream import LineStream, relay_fault
from swarm.relay.node_facts import NodeFacts, SharedLook
from swarm.relay.relay_card import RelayCard
from swarm.relay.shared_pulls import SharedPulls
from swarm.runtime.logging import kind_and_place

MAX_BODY = 128 << 20
"""Bytes of a request: images are in it."""
HOLDER_CHARS = 300
WARN_EVERY_S = 60.0
VERSIONS_S, MISSED_S = 60.0, 5.0
"""How long versions are remembered: all that servers could say, and where one did not."""
VERSIONS_WAIT_S = 1.0
QUESTION_S, MOST_S = 10.0, 120.0
"""A question to a model server takes so long at most, by default and at all: an ended relay waits for it."""
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
CardHandler = Callable[[web.Request, RelayCard], Coroutine[Any, Any, web.StreamResponse]]
T = TypeVar("T")
log = logging.getLogger(__name__)


class Refusal(Exception):
    """A request that is not carried out."""

    def __init__(self, status: int, kind: str, message: str, fault: FaultClass = "infra") -> None:
        super().__init__(message)
        self.status = status
        self.fault = RelayFault(fault=fault, kind=kind, message=message)


class RelayRoutes:
    """For one event loop, but for ``quiet_s``."""

    def __init__(
        self,
        node: str,
        life: str,
        token: str,
        cards: Mapping[str, RelayCard],
        look: SharedLook[NodeFacts],
        pulls: SharedPulls,
    ) -> None:
        self._node = node
        self._life = life
        self._token = token.encode()
        self._cards = dict(cards)
        self._holders = {name: CardHolder() for name in cards}
        self._look = look
        self._pulls = pulls
        self._versions: dict[str, str] = {}
        self._versions_due_s = float("-inf")
        self._asking: asyncio.Task[None] | None = None
        self._running = 0
        self._asked_s = time.monotonic()
        self._warned_s = float("-inf")

    def quiet_s(self) -> float:
        """Seconds since anybody with the token asked for anything; 0 while something runs. From any thread."""
        return 0.0 if self._running else time.monotonic() - self._asked_s

    def app(self) -> web.Application:
        """The application."""
        app = web.Application(middlewares=[self._answered], client_max_size=MAX_BODY)
        app.on_response_prepare.append(_without_versions)
        card = "/cards/{card}"
        app.add_routes(
            [
                web.get("/node", self._node_state),
                web.get(card + "/state", self._of_card(self._state)),
                web.post(card + "/run", self._of_card(self._run)),
                web.post(card + "/load", self._of_card(self._load)),
                web.post(card + "/pull", self._of_card(self._pull)),
                web.post(card + "/unload", self._of_card(self._unload)),
                web.get(card + "/ps", self._of_card(self._ps)),
                web.get(card + "/tags", self._of_card(self._tags)),
                web.get(card + "/show", self._of_card(self._show)),
                web.post(card + "/repair", self._of_card(self._repair)),
                web.get(card + "/log", self._of_card(self._log)),
            ]
        )
        return app

    # -- who may -----------------------------------------------------------------------------------------------------

    @web.middleware
    async def _answered(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            self._check_entry(request)
            self._running += 1
            try:
                return await handler(request)
            finally:
                self._running -= 1
                self._asked_s = time.monotonic()
        except Refusal as refusal:
            return _json(RefusedAnswer(error=refusal.fault), refusal.status)
        except TaskFault as fault:
            return _json(RefusedAnswer(error=fault_on_wire(fault)), 502)
        except web.HTTPException as error:
            known = {413: "too_large", 404: "unknown_path"}.get(error.status, "bad_request")
            what = f"at most {MAX_BODY} bytes may be sent" if error.status == 413 else error.reason
            return _json(RefusedAnswer(error=RelayFault(fault="deterministic", kind=known, message=what)), error.status)
        except OSError as error:
            if isinstance(error, ConnectionError):
                raise
            return _json(RefusedAnswer(error=fault_on_wire(relay_fault(str(error)))), 502)
        except Exception as error:  # noqa: BLE001 - answered, and logged without its text
            log.error(  # noqa: TRY400
                "%s failed in a way that was not foreseen: %s", request.path[:100], kind_and_place(error)
            )
            what = f"the relay failed: {type(error).__name__}; see its log"
            return _json(RefusedAnswer(error=fault_on_wire(relay_fault(what))), 502)

    def _check_entry(self, request: web.Request) -> None:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        given = token.strip().encode("utf-8", "surrogateescape")
        if not hmac.compare_digest(given, self._token) or scheme.lower() != "bearer":
            self._warn(request.remote or "an unknown address")
            raise Refusal(401, "forbidden", "the token is missing or wrong")
        wire = request.headers.get(WIRE_HEADER, str(WIRE))
        if wire != str(WIRE):
            what = f"the relay on {self._node} (swarm {__version__}) speaks version {WIRE} of this, not {one_line(wire, 20)}"
            raise Refusal(409, "wire_version", f"{what}: install the same version of swarm on both machines")

    def _warn(self, address: str) -> None:
        now_s = time.monotonic()
        if now_s - self._warned_s >= WARN_EVERY_S:
            self._warned_s = now_s
            log.warning("refused: a request from %s without the right token", one_line(address))

    def _of_card(self, handle: CardHandler) -> Handler:
        async def handler(request: web.Request) -> web.StreamResponse:
            name = request.match_info["card"]
            card = self._cards.get(name)
            if card is None:
                there = ", ".join(self._cards)
                raise Refusal(404, "unknown_card", f"{self._node} has no card {one_line(name, 40)!r} here; it has: {there}")
            holder = one_line(request.headers.get(HOLDER, ""), HOLDER_CHARS)
            if not holder.strip():
                raise Refusal(422, "bad_request", f"the header {HOLDER} is missing: who asks", "deterministic")
            why = self._holders[name].refusal(holder, time.monotonic())
            if why:
                raise Refusal(409, "held", f"{self._node}: {why}")
            with self._holders[name].asking(time.monotonic):
                return await handle(request, card)

        return handler

    # -- answers -----------------------------------------------------------------------------------------------------

    async def _node_state(self, _request: web.Request) -> web.StreamResponse:
        facts = await self._look()
        state = NodeState(
            wire=WIRE,
            node=self._node,
            life=self._life,
            version=__version__,
            engine_versions=await self._engine_versions(),
            cards=tuple(card.state(facts) for card in self._cards.values()),
        )
        return _json(state)

    async def _engine_versions(self) -> dict[str, str]:
        """As known now: a server that does not say its version holds up nobody who asks about the node."""
        if (self._asking is None or self._asking.done()) and time.monotonic() >= self._versions_due_s:
            self._asking = asyncio.create_task(self._ask_versions())
        if self._asking is not None:
            await asyncio.wait({self._asking}, timeout=VERSIONS_WAIT_S)
        return self._versions

    async def _ask_versions(self) -> None:
        found: dict[str, str] = {}
        for card in self._cards.values():
            if not found or not all(found.get(name) for name in card.plan.engines):
                found |= {name: version for name, version in (await card.versions()).items() if version or name not in found}
        self._versions = found
        self._versions_due_s = time.monotonic() + (VERSIONS_S if all(found.values()) else MISSED_S)

    async def _state(self, _request: web.Request, card: RelayCard) -> web.StreamResponse:
        return _json(card.state(await self._look()))

    async def _run(self, request: web.Request, card: RelayCard) -> web.StreamResponse:
        ask, stream = await _body(request, RunAsk), LineStream()

        async def work() -> RelayLine:
            progress = stream.progress if ask.progress else None
            return RelayLine(reply=await card.run(ask, progress=progress, on_piece=stream.piece if ask.pieces else None))

        return await stream.answer(request, work())

    async def _load(self, request: web.Request, card: RelayCard) -> web.StreamResponse:
        ask = await _body(request, LoadAsk)

        async def work() -> RelayLine:
            try:
                await card.load(ask)
            finally:
                self._look.stale()
            return RelayLine(done=True)

        return await LineStream().answer(request, work())

    async def _pull(self, request: web.Request, card: RelayCard) -> web.StreamResponse:
        ask, stream = await _body(request, PullAsk), LineStream()

        async def work() -> RelayLine:
            await self._pulls.pull(ask.model, lambda step, cancel: card.fetch(ask.model, step, cancel), stream.step)
            return RelayLine(done=True)

        return await stream.answer(request, work())

    async def _unload(self, request: web.Request, card: RelayCard) -> web.StreamResponse:
        ask = await _body(request, UnloadAsk)
        await card.unload(msgspec.structs.replace(ask, timeout_s=min(ask.timeout_s, MOST_S)))
        self._look.stale()
        return _json({})

    async def _ps(self, request: web.Request, card: RelayCard) -> web.StreamResponse:
        return _json(HeldModels(models=await card.ps(_timeout_s(request))))

    async def _tags(self, request: web.Request, card: RelayCard) -> web.StreamResponse:
        return _json(NodeModels(models=await card.tags(_timeout_s(request))))

    async def _show(self, request: web.Request, card: RelayCard) -> web.StreamResponse:
        model = request.query.get("model", "")
        if not model:
            raise Refusal(422, "bad_request", "show?model=: the model is missing", "deterministic")
        return _json(await card.show(model, _timeout_s(request)))

    async def _repair(self, request: web.Request, card: RelayCard) -> web.StreamResponse:
        ask = await _body(request, RepairAsk)
        ended = await card.repair(ask)
        self._look.stale()
        log.warning("%s, as asked: %s: %s", card.plan.name, ask.action, "; ".join(ended) or "nothing to end")
        return _json(RepairDone(ended=ended))

    async def _log(self, request: web.Request, card: RelayCard) -> web.StreamResponse:
        after = request.query.get("after", "0")
        if not (after.isascii() and after.isdigit() and len(after) < 20):
            raise Refusal(422, "bad_request", f"log?after={one_line(after, 40)}: no number", "deterministic")
        return _json(await card.log(request.query.get("life", ""), int(after)))


def _timeout_s(request: web.Request) -> float:
    text = request.query.get("timeout_s", str(QUESTION_S))
    try:
        found = float(text)
    except ValueError:
        found = 0.0
    if not 0 < found <= MOST_S:
        raise Refusal(422, "bad_request", f"timeout_s={one_line(text, 40)}: no number of seconds", "deterministic")
    return found


async def _without_versions(_request: web.Request, response: web.StreamResponse) -> None:
    response.headers["Server"] = "swarm"


async def _body(request: web.Request, kind: type[T]) -> T:
    data = await request.read()
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        _refuse_body(error)


def _refuse_body(error: Exception) -> NoReturn:
    what = f"the request is not what it should be: {one_line(str(error), 300)}"
    raise Refusal(422, "bad_request", what, "deterministic") from error


def _json(answer: object, status: int = 200) -> web.Response:
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else None
    return web.Response(body=msgspec.json.encode(answer), status=status, headers=headers, content_type="application/json")
