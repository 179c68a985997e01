"""HTTP for the work of one model server: hundreds of requests at once on one event loop.

* Neither proxies, redirects, cookies nor compression: model servers are local, and not trusted.
* The deadline bounds the whole exchange, so a server that trickles bytes does not outlast it.
* Cancelling the awaiting task cuts the request, before the head of the reply as well as in mid-stream.
* A kept connection that breaks at once under a request is replaced by a fresh one, once.
"""

from __future__ import annotations

import asyncio
import http.client
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING

import aiohttp

from swarm.engines.control_http import CONNECT_S, STALE_WINDOW_S, ConnectTimeout, OnConnect, checked_url
from swarm.engines.deadlines import Deadlines

if TYPE_CHECKING:
    from aiohttp.client_proto import ResponseHandler
    from aiohttp.client_reqrep import ClientRequest
    from aiohttp.tracing import Trace

_DRAIN_S = 0.5
"""How long the end of a reply may trail its last line before the connection is given up instead of reused."""
_KEEP_ALIVE_S = 300.0
_HEADERS = {"Accept": "application/json", "User-Agent": "swarm"}
_NO_LIMITS = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S)


class _Sending:
    """One try of a request, as the connector sees it."""

    def __init__(self, deadlines: Deadlines) -> None:
        self.deadlines = deadlines
        self.reused = True
        """Whether it went out on a kept connection."""


_current: ContextVar[_Sending] = ContextVar("sending")


class _Connector(aiohttp.TCPConnector):
    """Shows each new connection to ``on_connect`` before anything is sent."""

    def __init__(self, on_connect: OnConnect | None, *, keep: bool) -> None:
        if keep:
            super().__init__(limit=0, keepalive_timeout=_KEEP_ALIVE_S)
        else:
            super().__init__(limit=0, force_close=True)
        self._on_connect = on_connect

    async def _create_connection(
        self, req: ClientRequest, traces: list[Trace], timeout: aiohttp.ClientTimeout
    ) -> ResponseHandler:
        sending = _current.get()
        sending.reused = False
        protocol = await super()._create_connection(req, traces, timeout)
        if self._on_connect is not None and protocol.transport is not None:
            plain = protocol.transport.get_extra_info("socket")
            try:
                await asyncio.to_thread(self._on_connect, plain, sending.deadlines.next)
            except BaseException:
                protocol.close()
                raise
        return protocol


class WorkReply:
    """The reply to a request, once its head is here."""

    def __init__(self, response: aiohttp.ClientResponse, deadlines: Deadlines, limit: asyncio.Timeout) -> None:
        self.status = response.status
        self._response = response
        self._deadlines = deadlines
        self._limit = limit

    async def pieces(self) -> AsyncIterator[bytes]:
        """The body, as it arrives. Between two of them the deadlines are looked at anew."""
        content = self._response.content
        while data := await content.readany():
            yield data
            self._limit.reschedule(self._deadlines.next)

    async def drain(self) -> None:
        """Read what follows the answer, so that the connection can be used again. The answer is whole already."""
        if not self._response.content.at_eof():
            with suppress(TimeoutError, aiohttp.ClientError, OSError):
                async with asyncio.timeout(_DRAIN_S):
                    await self._response.content.readany()


class WorkHttp:
    """Requests to one server. For one event loop; the first request binds it to that."""

    def __init__(self, base_url: str, on_connect: OnConnect | None = None) -> None:
        """Raises ``ConfigError`` for anything but plain ``http://host:port``."""
        self.base_url = checked_url(base_url)
        self._on_connect = on_connect
        self._sessions: dict[bool, aiohttp.ClientSession] = {}
        self._loop: asyncio.AbstractEventLoop | None = None

    def close_soon(self) -> None:
        """Have idle connections closed by the event loop; from any thread."""
        if self._loop is not None and self._loop.is_running():
            asyncio.run_coroutine_threadsafe(self.close(), self._loop)

    async def close(self) -> None:
        """Close idle connections."""
        sessions, self._sessions = self._sessions, {}
        for session in sessions.values():
            await session.close()

    @asynccontextmanager
    async def post(
        self, path: str, body: bytes, headers: Mapping[str, str], deadlines: Deadlines
    ) -> AsyncIterator[WorkReply]:
        """Send a request; the block begins once the head of the reply is here.

        Raises ``TimeoutError`` when a deadline passes; ``ConnectTimeout``, ``ConnectionError`` and other ``OSError`` for a
        broken connection; ``http.client.HTTPException`` for what is no HTTP.
        """
        try:
            # On Linux the clock of the event loop is time.monotonic.
            async with asyncio.timeout_at(deadlines.next) as limit:
                response = await self._send(path, body, headers, deadlines)
                try:
                    yield WorkReply(response, deadlines, limit)
                finally:
                    response.release()
        except aiohttp.ClientError as error:
            raise _plain(error) from error

    async def _send(
        self, path: str, body: bytes, headers: Mapping[str, str], deadlines: Deadlines
    ) -> aiohttp.ClientResponse:
        """A kept connection may have died with the server that held it: if it breaks at once, before any byte of a reply,
        the request is sent once more on a fresh one.
        """
        sending, began_s = _Sending(deadlines), time.monotonic()
        _current.set(sending)
        try:
            return await self._try(path, body, headers, keep=True)
        except (aiohttp.ClientError, OSError) as error:
            broken = isinstance(_plain(error), ConnectionError) and sending.reused
            if not broken or time.monotonic() - began_s > STALE_WINDOW_S:
                raise
            return await self._try(path, body, headers, keep=False)

    async def _try(self, path: str, body: bytes, headers: Mapping[str, str], *, keep: bool) -> aiohttp.ClientResponse:
        session = self._sessions.get(keep) or self._open(keep=keep)
        return await session.post(self.base_url + path, data=body, headers=headers, allow_redirects=False)

    def _open(self, *, keep: bool) -> aiohttp.ClientSession:
        self._loop = asyncio.get_running_loop()
        session = self._sessions[keep] = aiohttp.ClientSession(
            connector=_Connector(self._on_connect, keep=keep),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={**_HEADERS, "Content-Type": "application/json"},
            timeout=_NO_LIMITS,
            auto_decompress=False,
            skip_auto_headers=("Accept-Encoding",),
        )
        return session


def _plain(error: BaseException) -> BaseException:
    """The same in the words of the standard library; aiohttp's own errors wrap those of the socket."""
    match error:
        case aiohttp.ConnectionTimeoutError():
            return ConnectTimeout(f"no connection within {CONNECT_S:.1f} s")
        case aiohttp.ClientConnectorError(os_error=inner):
            return inner
        case aiohttp.ClientOSError():
            return error.__cause__ if isinstance(error.__cause__, OSError) else ConnectionResetError(str(error))
        case aiohttp.ClientConnectionError() | aiohttp.ClientPayloadError():
            return ConnectionResetError(str(error) or "the connection ended")
        case aiohttp.ClientError():
            return http.client.HTTPException(str(error))
        case _:
            return error
