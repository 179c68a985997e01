"""Ollama's own endpoints for live requests: chats, prompts, embeddings. Pieces are passed on as the worker gives them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from swarm.clock import now_iso
from swarm.core.task import EMBED, Endpoint, canonical_model
from swarm.http.answers import ApiError, json_answer
from swarm.http.live.live_answer import StreamedAnswer, all_pieces, answer_to, first_pieces
from swarm.http.live.live_ask import AskReader, flag, model_in, read_object
from swarm.http.live.live_desk import LiveDesk
from swarm.http.live.openai_answers import merged
from swarm.http.live.openai_routes import Handler
from swarm.http.live.worker_sockets import Piece
from swarm.http.parts import client_of

_SAYS: dict[Endpoint, str] = {"/api/chat": "messages", "/api/generate": "prompt"}
_encode = msgspec.json.Encoder().encode


def _lines(pieces: Iterable[Piece]) -> bytes:
    return b"".join(piece.raw + b"\n" for piece in pieces)


def _error_line(error: ApiError) -> bytes:
    return _encode({"error": error.message}) + b"\n"


def ollama_endpoint(desk: LiveDesk, reader: AskReader, endpoint: Endpoint) -> Handler:
    """The handler of ``/api/chat`` or ``/api/generate``; streamed unless the client says otherwise."""

    async def handle(request: Request) -> Response:
        body = read_object(await request.body())
        desk.check(canonical_model(model_in(body)))
        streamed = flag(body, "stream", default=True)
        ask = reader.ollama(endpoint, body, client_of(request).name)
        if not body.get(_SAYS[endpoint]):
            return await _load(request, desk, ask.model, endpoint, body)
        if streamed:
            begun = await answer_to(request, desk.ask(ask, first_pieces))
            return StreamedAnswer(begun, _lines, _error_line, "application/x-ndjson", ask.id)
        whole = await answer_to(request, desk.ask(ask, all_pieces))
        return json_answer(merged(ask, whole.pieces), headers=whole.headers(ask.id))

    async def _load(request: Request, desk: LiveDesk, model: str, endpoint: Endpoint, body: dict[str, Any]) -> Response:
        """A request that says nothing asks for the model to be loaded: answered once a worker holds it."""
        if body.get("keep_alive") in (0, "0", "0s"):
            what = "keep_alive: 0 would unload the model; how long one stays is the swarm's to decide"
            raise ApiError(400, what, param="keep_alive")
        await answer_to(request, desk.wait_for(canonical_model(model), client_of(request).name))
        said: dict[str, Any] = (
            {"message": {"role": "assistant", "content": ""}} if endpoint == "/api/chat" else {"response": ""}
        )
        return json_answer({"model": model, "created_at": now_iso(), **said, "done": True, "done_reason": "load"})

    return handle


def ollama_embed(desk: LiveDesk, reader: AskReader) -> Handler:
    """The handler of ``/api/embed``."""

    async def handle(request: Request) -> Response:
        body = read_object(await request.body())
        desk.check(canonical_model(model_in(body)))
        _need_input(body, "input", (str, list))
        ask = reader.ollama(EMBED, body, client_of(request).name)
        whole = await answer_to(request, desk.ask(ask, all_pieces))
        return Response(whole.pieces[0].raw, headers=whole.headers(ask.id), media_type="application/json")

    return handle


def ollama_embeddings(desk: LiveDesk, reader: AskReader) -> Handler:
    """The handler of ``/api/embeddings``, the older form: one text, one vector."""

    async def handle(request: Request) -> Response:
        body = read_object(await request.body())
        desk.check(canonical_model(model_in(body)))
        _need_input(body, "prompt", (str,))
        asked = {name: value for name, value in body.items() if name != "prompt"} | {"input": body["prompt"]}
        ask = reader.ollama(EMBED, asked, client_of(request).name)
        whole = await answer_to(request, desk.ask(ask, all_pieces))
        answer = merged(ask, whole.pieces)
        vectors = answer.get("embeddings") or [[]]
        marks = {"simulated": True} if answer.get("simulated") is True else {}
        return json_answer({"embedding": vectors[0], **marks}, headers=whole.headers(ask.id))

    return handle


def _need_input(body: dict[str, Any], name: str, kinds: tuple[type, ...]) -> None:
    if not isinstance(body.get(name), kinds):
        wanted = "a text" if kinds == (str,) else "a text or a list of texts"
        raise ApiError(400, f"{name}: must be {wanted}", param=name)
