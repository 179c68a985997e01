"""A worker's answer on its way to the client: read whole, or passed on piece by piece.

A streamed answer begins only once its first piece is there: until then it may be asked elsewhere, and a refusal has a status
of its own. What fails later is an event in the form of the stream.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import TypeVar

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from swarm.http.answers import ApiError
from swarm.http.live.live_desk import ClientGone, while_connected
from swarm.http.live.refusals import of_fault
from swarm.http.live.worker_sockets import AnswerFault, LiveStream, Piece

T = TypeVar("T")


class BegunAnswer(msgspec.Struct, frozen=True):
    """A streamed answer whose first pieces have come."""

    stream: LiveStream
    first: list[Piece]


class WholeAnswer(msgspec.Struct, frozen=True):
    """All pieces of an answer."""

    pieces: list[Piece]
    worker: str

    def headers(self, ask_id: str) -> dict[str, str]:
        """Those of the answer to the client."""
        return answer_headers(ask_id, self.worker)


def answer_headers(ask_id: str, worker: str) -> dict[str, str]:
    """Which request it was, and who answered it."""
    return {"x-request-id": f"req_{ask_id}", "x-swarm-worker": worker}


async def first_pieces(stream: LiveStream) -> BegunAnswer:
    """As soon as there is something to pass on. Raises ``AnswerFault``."""
    return BegunAnswer(stream, await stream.pieces())


async def all_pieces(stream: LiveStream) -> WholeAnswer:
    """The whole answer; closes the stream. Raises ``AnswerFault``."""
    found: list[Piece] = []
    while pieces := await stream.pieces():
        found += pieces
    stream.close()
    return WholeAnswer(found, stream.worker)


async def answer_to(request: Request, work: Awaitable[T]) -> T:
    """What the work gives, as long as the client is there. Raises ``ClientDisconnect`` once it has gone."""
    try:
        return await while_connected(request.receive, work)
    except ClientGone:
        raise ClientDisconnect from None


class StreamedAnswer(StreamingResponse):
    """Passes the pieces on as they come. A client that goes closes the stream, and by that cancels the request."""

    def __init__(
        self,
        begun: BegunAnswer,
        frame: Callable[[Iterable[Piece]], bytes],
        error_frame: Callable[[ApiError], bytes],
        media_type: str,
        ask_id: str,
    ) -> None:
        self._stream = begun.stream
        headers = {"cache-control": "no-cache", "x-accel-buffering": "no", **answer_headers(ask_id, begun.stream.worker)}
        super().__init__(_frames(begun, frame, error_frame), headers=headers, media_type=media_type)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ``StreamingResponse``."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._stream.close()


async def _frames(
    begun: BegunAnswer, frame: Callable[[Iterable[Piece]], bytes], error_frame: Callable[[ApiError], bytes]
) -> AsyncIterator[bytes]:
    pieces = begun.first
    try:
        while pieces:
            yield frame(pieces)
            pieces = await begun.stream.pieces()
    except AnswerFault as fault:
        yield error_frame(of_fault(fault, 1))
