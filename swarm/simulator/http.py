"""A minimal HTTP/1.1 server on asyncio.

Written for little CPU: one write per line, no streams layer.
Keep-alive, bounded bodies, chunked lines; a task per request that is cancelled when the client hangs up.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import sys
import traceback
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, cast

import msgspec

MAX_HEAD_BYTES = 65536
MAX_BODY_BYTES = 64 << 20
NDJSON = "application/x-ndjson"
JSON = "application/json; charset=utf-8"
TEXT = "text/plain; charset=utf-8"

_encode = msgspec.json.Encoder().encode


class ApiError(Exception):
    """Ends a request with this status and ``{"error": text}``; in mid-stream, with an error line."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


@dataclass(slots=True)
class Request:
    """One request: method, path without query, headers by lower-case name, body."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


class Response:
    """The answer being written. Either ``send`` once, or ``line`` any number of times and then ``end``."""

    __slots__ = ("_keep", "_transport", "closed", "started")

    def __init__(self, transport: asyncio.Transport, *, keep: bool) -> None:
        self._transport = transport
        self._keep = keep
        self.started = False
        self.closed = False

    def send(self, status: int, body: bytes, content_type: str = JSON, *, extra: str = "") -> None:
        """A whole answer."""
        head = self._head(status, content_type, f"Content-Length: {len(body)}\r\n{extra}")
        self._transport.write(head + body)
        self._finish()

    def send_object(self, document: Any, status: int = 200) -> None:  # noqa: ANN401 - whatever JSON can say
        self.send(status, _encode(document))

    def line(self, document: dict[str, Any], *, last: bool = False) -> None:
        """One line of a stream, flushed at once; ``last`` also ends the stream."""
        self.raw(_encode(document) + b"\n", last=last)

    def raw(self, data: bytes, *, last: bool = False, content_type: str = NDJSON) -> None:
        """Bytes of a stream."""
        chunk = b"%x\r\n%b\r\n%b" % (len(data), data, b"0\r\n\r\n" if last else b"")
        if not self.started:
            chunk = self._head(200, content_type, "Transfer-Encoding: chunked\r\n") + chunk
        self._transport.write(chunk)
        if last:
            self._finish()

    def end(self) -> None:
        """End a stream."""
        self._transport.write(b"0\r\n\r\n")
        self._finish()

    def cut(self) -> None:
        """Close the connection in the middle of an answer."""
        self.closed = True
        self._transport.close()

    def reset(self) -> None:
        """Close the connection so that the client sees a reset."""
        self.closed = True
        raw = self._transport.get_extra_info("socket")
        if raw is not None:
            with contextlib.suppress(OSError):
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()

    async def drained(self) -> None:
        """Give the client time to read; without this an endless answer would fill the memory."""
        while self._transport.get_write_buffer_size() > 1 << 20:
            await asyncio.sleep(0.005)

    def _head(self, status: int, content_type: str, extra: str) -> bytes:
        self.started = True
        close = "" if self._keep else "Connection: close\r\n"
        phrase = HTTPStatus(status).phrase if status in _KNOWN else "Unknown"
        kind = f"Content-Type: {content_type}\r\n" if content_type else ""
        return f"HTTP/1.1 {status} {phrase}\r\n{kind}{extra}{close}\r\n".encode("latin-1")

    def _finish(self) -> None:
        self.closed = True
        if not self._keep:
            self._transport.close()


_KNOWN = frozenset(int(status) for status in HTTPStatus)

Handler = Callable[[Request, Response], Awaitable[None]]


class HttpConnection(asyncio.Protocol):
    """One client connection; requests on it are served one after the other."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self._buffer = b""
        self._transport: asyncio.Transport | None = None
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if self._task is None:
            self._next()

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        if self._task is not None:
            self._task.cancel()

    def _next(self) -> None:
        transport = self._transport
        if transport is None or transport.is_closing() or not self._buffer:
            return
        try:
            request = self._parse()
        except ValueError:
            Response(transport, keep=False).send(400, b"400 Bad Request", TEXT)
            return
        if request is None:
            return
        keep = request.headers.get("connection", "").lower() != "close"
        self._task = asyncio.get_running_loop().create_task(self._serve(request, Response(transport, keep=keep)))

    def _parse(self) -> Request | None:
        """Take one request off the buffer; None while it is not whole. Raises ``ValueError`` for nonsense."""
        head, separator, rest = self._buffer.partition(b"\r\n\r\n")
        if not separator:
            if len(head) > MAX_HEAD_BYTES:
                raise ValueError("head too long")
            return None
        first, *lines = head.decode("latin-1").split("\r\n")
        method, target, version = first.split(" ")
        headers = {}
        for line in lines:
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        length = int(headers.get("content-length", "0"))
        if length < 0 or length > MAX_BODY_BYTES or "transfer-encoding" in headers or not version.startswith("HTTP/1."):
            raise ValueError("unsupported request")
        if len(rest) < length:
            return None
        self._buffer = rest[length:]
        return Request(method, target.partition("?")[0], headers, rest[:length])

    async def _serve(self, request: Request, response: Response) -> None:
        try:
            await self._handler(request, response)
        except asyncio.CancelledError:
            if self._transport is not None:
                self._transport.close()
            raise
        except Exception as error:  # noqa: BLE001 - the last resort of a server: printed, and reported to the client
            traceback.print_exc(file=sys.stderr)
            if not response.started:
                response.send_object({"error": f"simulated server: {error!r}"}, 500)
            else:
                response.cut()
        finally:
            self._task = None
        self._next()
