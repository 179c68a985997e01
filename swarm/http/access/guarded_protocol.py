"""uvicorn's protocol with limits for what comes before a request reaches the application.

* A connection beyond the limit is answered 503 and closed.
* The head of a request, the first after the connection was made included, must come within ``HEAD_S`` (408) and be no larger
  than ``HEAD_BYTES`` (431).
* A client that takes nothing of its answer for ``WRITE_S`` is cut off: it may hold a place on a card.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus

import msgspec
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_S = 10.0
WRITE_S = 60.0
HEAD_BYTES = 64 << 10
_TOO_LARGE = f"the head of the request is larger than {HEAD_BYTES >> 10} KiB"


class GuardedProtocol(HttpToolsProtocol):
    """One connection. For uvicorn's option ``http``: by ``with_limits``."""

    most_connections = 1024
    head_s = HEAD_S
    write_s = WRITE_S
    _write_timer: asyncio.TimerHandle | None = None
    _timer: asyncio.TimerHandle | None = None
    _head_bytes = 0
    """Of the head that comes now."""
    _in_head = True

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a connection, or refuse it."""
        super().connection_made(transport)
        if len(self.connections) > self.most_connections:
            self._refuse(503, "too many connections", "server_error")
            return
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """It has ended."""
        self._stop_timer()
        self._stop_write_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Some bytes of a request."""
        if self.transport.is_closing():
            return
        if self._in_head:
            self._head_bytes += len(data)
        super().data_received(data)
        if self._in_head and self._head_bytes > HEAD_BYTES:
            self._refuse(431, _TOO_LARGE)

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        if not self._in_head:  # not the first of this connection
            self._in_head, self._head_bytes = True, 0
        if self._timer is None:
            self._await_head()

    def on_headers_complete(self) -> None:
        """The head is there."""
        self._in_head = False
        self._stop_timer()
        if len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers) > HEAD_BYTES:
            self._refuse(431, _TOO_LARGE)
            raise ValueError(_TOO_LARGE)  # the parser takes it for a bad request, and stops
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        """What is no request of HTTP is answered so."""
        if not self.transport.is_closing():
            self._refuse(400, msg)

    def pause_writing(self) -> None:
        """The client does not read as fast as it is answered."""
        super().pause_writing()
        self._stop_write_timer()
        self._write_timer = self.loop.call_later(self.write_s, self.transport.abort)

    def resume_writing(self) -> None:
        """It has caught up."""
        self._stop_write_timer()
        super().resume_writing()

    def _stop_write_timer(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def _await_head(self) -> None:
        self._timer = self.loop.call_later(self.head_s, self._late)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _late(self) -> None:
        self._timer = None
        if self._head_bytes:
            self._refuse(408, "the request did not come in time")
        else:
            self.transport.close()  # a browser that has connected in advance

    def _refuse(self, status: int, text: str, kind: str = "invalid_request_error") -> None:
        self._stop_timer()
        if self.transport.is_closing():
            return
        body = msgspec.json.encode({"error": {"message": text, "type": kind, "param": None, "code": None}})
        head = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\ncontent-type: application/json\r\n"
        self.transport.write(f"{head}content-length: {len(body)}\r\nconnection: close\r\n\r\n".encode() + body)
        self.transport.close()


def with_limits(most_connections: int, write_s: float = WRITE_S) -> type[GuardedProtocol]:
    """The class with other limits."""
    return type("LimitedProtocol", (GuardedProtocol,), {"most_connections": most_connections, "write_s": write_s})
