"""OpenAI's endpoints for live requests: chats, text completions, embeddings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from swarm.core.task import canonical_model
from swarm.formats.input.problems import FieldError, need_object
from swarm.formats.tasks.openai_batch import EMBEDDINGS
from swarm.http.answers import ApiError, json_answer
from swarm.http.live.live_answer import StreamedAnswer, all_pieces, answer_to, first_pieces
from swarm.http.live.live_ask import AskReader, flag, model_in, read_object, refused
from swarm.http.live.live_desk import LiveDesk
from swarm.http.live.openai_answers import ChunkWriter, error_event, whole_answer
from swarm.http.parts import client_of

Handler = Callable[[Request], Any]


def openai_endpoint(desk: LiveDesk, reader: AskReader, url: str) -> Handler:
    """The handler of one endpoint."""

    async def handle(request: Request) -> Response:
        body = read_object(await request.body())
        desk.check(canonical_model(model_in(body)))
        streamed = flag(body, "stream", default=False)
        if streamed and url == EMBEDDINGS:
            raise ApiError(400, "stream: embeddings are not streamed", param="stream")
        usage = _usage_wanted(body, streamed=streamed)
        ask = reader.openai(url, body, client_of(request).name)
        if streamed:
            begun = await answer_to(request, desk.ask(ask, first_pieces))
            writer = ChunkWriter(url, ask, desk.worker(begun.stream.worker), usage=usage)
            return StreamedAnswer(begun, writer.events, error_event, "text/event-stream", ask.id)
        whole = await answer_to(request, desk.ask(ask, all_pieces))
        document = whole_answer(url, ask, whole.pieces, desk.worker(whole.worker))
        return json_answer(document, headers=whole.headers(ask.id))

    return handle


def _usage_wanted(body: dict[str, Any], *, streamed: bool) -> bool:
    options = body.get("stream_options")
    if options is None:
        return False
    if not streamed:
        raise ApiError(400, "stream_options: needs stream: true beside it", param="stream_options")
    try:
        given = need_object(options, "stream_options")
    except FieldError as error:
        raise refused(error) from error
    for name in given:
        if name not in ("include_usage", "include_obfuscation"):
            raise ApiError(400, f"stream_options.{name}: is not supported", param=f"stream_options.{name}")
    return flag(given, "include_usage", default=False)
