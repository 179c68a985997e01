"""Requests to a server that speaks OpenAI's API, in Ollama's form on this side; every one bounded and cancellable.

Each request goes to one server as ``translate_request`` has it, and its answer comes back as ``translate_answer`` has it.
Every failure is a ``TaskFault``; see ``swarm.engines.openai.openai_faults``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from swarm.core.models.engines import EngineKind
from swarm.core.models.model_server import Limits, OnPiece, Reply
from swarm.core.task import EMBED, Endpoint
from swarm.engines.control_http import OnConnect
from swarm.engines.deadlines import Deadlines
from swarm.engines.ollama.replies import answer, whole_reply
from swarm.engines.openai.event_stream import EventReader, StreamedAnswer, decode_answer
from swarm.engines.openai.native_pieces import NativePieces, native_end
from swarm.engines.openai.openai_faults import fault_of_openai_status
from swarm.engines.openai.translate_answer import native_answer
from swarm.engines.openai.translate_request import EMBEDDINGS, OpenAIRequest, openai_request
from swarm.engines.work_call import answered, marker_header, whole_body
from swarm.engines.work_http import WorkHttp, WorkReply

_STREAM = {"stream": True, "stream_options": {"include_usage": True}}


class OpenAIClient:
    """One server. ``run`` is for one event loop; connections are kept alive. Uses no proxy."""

    def __init__(self, base_url: str, *, kind: EngineKind, key: str = "", on_connect: OnConnect | None = None) -> None:
        """``base_url`` without ``/v1``; ``key``: sent as bearer token, empty for none.

        ``on_connect`` sees each new connection before anything is sent, and may refuse it. Raises ``ConfigError`` unless
        ``base_url`` is ``http://host:port``.
        """
        self._kind: EngineKind = kind
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._work = WorkHttp(base_url, on_connect)

    def close(self) -> None:
        """Have idle connections closed, soon, by the event loop of ``run``; from any thread."""
        self._work.close_soon()

    async def close_work(self) -> None:
        """Close idle connections; to be awaited on the event loop of ``run``."""
        await self._work.close()

    async def run(
        self,
        endpoint: Endpoint,
        body: Mapping[str, Any],
        *,
        limits: Limits,
        progress: Callable[[int], None] | None = None,
        marker: str | None = None,
        on_piece: OnPiece | None = None,
    ) -> Reply:
        """Run one request (``/api/chat``, ``/api/generate`` or ``/api/embed``); ``body`` names the model as the server does.

        All calls on one event loop; cancelling one hangs up. ``progress`` is called with 1 for each piece of text; without
        it the answer comes in one piece, and only the limit for all of it holds. ``marker`` travels as header.
        """
        wanted = openai_request(self._kind, endpoint, body)
        streamed = progress is not None and _streams(wanted)
        sent = wanted.body | _STREAM if streamed else wanted.body
        headers = self._headers | marker_header(marker)
        deadlines = Deadlines(limits, streamed=streamed)
        refused = partial(fault_of_openai_status, path=wanted.path)
        async with answered(self._work, wanted.path, sent, headers, deadlines, refused) as reply:
            if streamed:
                whole = StreamedAnswer(progress, None if on_piece is None else NativePieces(endpoint, body, on_piece).add)
                document = await _streamed(whole, reply, deadlines, limits.max_reply_bytes)
            else:
                document = decode_answer(await whole_body(reply, limits.max_reply_bytes))
        final = answer(native_answer(endpoint, body, document))
        if on_piece is None or endpoint == EMBED:
            return whole_reply(final, deadlines)
        *pieces, last = native_end(final, streamed=streamed)
        for piece in pieces:
            on_piece(piece)
        return whole_reply(final, deadlines, last=last)


def _streams(wanted: OpenAIRequest) -> bool:
    """llama-server streams no probabilities of tokens beside tools; vectors come in one piece anyway."""
    return wanted.path != EMBEDDINGS and not (wanted.body.get("logprobs") and wanted.body.get("tools"))


async def _streamed(whole: StreamedAnswer, reply: WorkReply, deadlines: Deadlines, max_bytes: int) -> dict[str, Any]:
    reader = EventReader(max_bytes)
    async for data in reply.pieces():
        for event in reader.feed(data):
            deadlines.line_seen()
            whole.add(event)
        if reader.done:
            return whole.document
    for event in reader.end():
        whole.add(event)
    return whole.document
