"""The workers' sockets: connections that are kept, one request and its answer, and what may go wrong with it.

* A socket is reached through its directory (``/proc/self/fd/<n>/<worker>.sock``): the path itself may be too long for one.
* A worker sends the head of its answer with the first piece; what fails before that can be asked elsewhere.
* Closing an answer before its end closes its connection, and by that cancels the request at the worker.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import aiohttp
import msgspec
from yarl import URL

from swarm.core.live.live_request import PATH, LiveRequest
from swarm.core.task import EMBED
from swarm.http.live.live_ask import LiveAsk
from swarm.queue.layout import Layout

KEEP_S = 60.0
CONNECT_S = 5.0
GRACE_S = 5.0
"""The worker keeps the time limit of a request; so much later its answer is given up here."""
_RUN = URL(f"http://worker{PATH}")
_JSON = {"Content-Type": "application/json"}
_REFUSED, _WRONG = 409, 422
_NOBODY_LISTENS = (errno.ENOENT, errno.ECONNREFUSED)
_encode = msgspec.json.Encoder().encode


class NotTaken(Exception):
    """The worker does not take the request now; no fault of anybody."""

    def __init__(self, kind: str, message: str, retry_after_s: float | None) -> None:
        super().__init__(message)
        self.kind = kind
        self.retry_after_s = retry_after_s
        """None: it did not say."""


class AnswerFault(Exception):
    """The request failed at the worker. ``of_request``: it would fail anywhere. ``elsewhere``: another may be tried."""

    def __init__(self, kind: str, message: str, *, of_request: bool = False, elsewhere: bool = True) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.of_request = of_request
        self.elsewhere = elsewhere and not of_request


class _Error(msgspec.Struct, frozen=True):
    """A ``Refusal`` or a ``LiveFault`` of ``core.live.live_request``."""

    kind: str
    message: str
    retry_after_s: float | None = None
    elsewhere: bool = False


class _ErrorBody(msgspec.Struct, frozen=True):
    error: _Error


_error_body = msgspec.json.Decoder(_ErrorBody).decode
_ERROR_LINE = b'{"error"'
_document = msgspec.json.Decoder(dict[str, Any]).decode


class Piece(NamedTuple):
    """One line of an answer."""

    raw: bytes
    """Without its line end."""
    document: dict[str, Any]
    """Empty for embeddings, which may be long."""


class LiveStream:
    """The answer of one request: its lines as they come. Close it in any case."""

    def __init__(
        self,
        response: aiohttp.ClientResponse,
        worker: str,
        ended: Callable[[], None],
        *,
        deadline_s: float,
        one_line: bool = False,
    ) -> None:
        """``ended`` is called by each ``close``. ``deadline_s``: on the loop's clock."""
        self.worker = worker
        self._response = response
        self._ended = ended
        self._one_line = one_line
        self._deadline_s = deadline_s
        self._rest = b""
        self._complete = False
        self._passed_on = False
        self._fault: AnswerFault | None = None

    async def pieces(self) -> list[Piece]:
        """What came since the last call, at least one; none once the answer has ended. Raises ``AnswerFault``."""
        if self._fault is not None:
            raise self._fault
        while True:
            try:
                async with asyncio.timeout_at(self._deadline_s):
                    data = await self._response.content.readany()
            except TimeoutError as error:
                raise AnswerFault("timeout", f"{self.worker} has not ended the answer in time", elsewhere=False) from error
            except (aiohttp.ClientError, ConnectionError) as error:
                raise AnswerFault("worker_lost", f"{self.worker} broke the answer off") from error
            if not data:
                return self._end()
            *whole, self._rest = (self._rest + data).split(b"\n")
            found: list[Piece] = []
            try:
                found += map(self._checked, filter(None, whole))
            except AnswerFault as fault:
                if not (found and self._passed_on):  # who has nothing yet may be answered by another worker
                    raise
                self._fault = fault
            if found:
                self._passed_on = True
                return found

    def close(self) -> None:
        """Give the connection back, or break it off where the answer has not ended. May be called again."""
        if not (self._complete and self._response.content.at_eof()):
            self._response.close()
        self._ended()

    def _end(self) -> list[Piece]:
        if self._rest or not self._complete:
            raise AnswerFault("half_stream", f"{self.worker} ended the answer before its last line")
        return []

    def _checked(self, line: bytes) -> Piece:
        if line.startswith(_ERROR_LINE):
            raise fault_in(line)
        if self._one_line:
            self._complete = True
            return Piece(line, {})
        try:
            document = _document(line)
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            raise AnswerFault("garbage", f"{self.worker}'s answer is in no known form: {error}") from error
        self._complete |= document.get("done") is True
        return Piece(line, document)


def fault_in(body: bytes, *, of_request: bool = False) -> AnswerFault:
    """The fault that a worker tells. One that was stopped with a request in flight refuses it, late."""
    try:
        error = _error_body(body).error
    except (msgspec.DecodeError, UnicodeError) as problem:
        return AnswerFault("garbage", f"the worker's answer is in no known form: {problem}")
    elsewhere = error.elsewhere or error.retry_after_s is not None
    return AnswerFault(error.kind, error.message, of_request=of_request, elsewhere=elsewhere)


class WorkerSockets:
    """Used on the event loop only. A worker's connections are dropped when its next life begins."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._folder: int | None = None
        self._sessions: dict[str, tuple[int, aiohttp.ClientSession]] = {}
        self._closing: set[asyncio.Task[None]] = set()

    async def ask(self, worker: str, epoch: int, ask: LiveAsk, *, timeout_s: float, ended: Callable[[], None]) -> LiveStream:
        """Send the request; returns with the head of the answer. ``ended`` is called when the answer is closed.

        Raises ``NotTaken``, ``AnswerFault``; then ``ended`` is not called.
        """
        body = LiveRequest(id=ask.id, endpoint=ask.endpoint, request=ask.request, timeout_s=timeout_s)
        try:
            response = await self._session(worker, epoch).post(_RUN, data=_encode(body), headers=_JSON)
        except (FileNotFoundError, ConnectionRefusedError, aiohttp.ClientConnectorError) as error:
            if error.errno in _NOBODY_LISTENS:  # any other cause says nothing of the answers that come from it
                self._drop(worker)
            raise NotTaken("unready", f"{worker} takes no connection: {error}", None) from error
        except (aiohttp.ClientError, OSError) as error:
            raise AnswerFault("worker_lost", f"{worker} broke the connection off: {error}") from error
        if response.status == 200:
            deadline_s = asyncio.get_running_loop().time() + timeout_s + GRACE_S
            return LiveStream(response, worker, ended, deadline_s=deadline_s, one_line=ask.endpoint == EMBED)
        try:
            said = await response.read()
        except (aiohttp.ClientError, OSError) as error:
            raise AnswerFault("worker_lost", f"{worker} broke its refusal off: {error}") from error
        fault = fault_in(said, of_request=response.status == _WRONG)
        if response.status == _REFUSED and fault.kind != "garbage":
            raise NotTaken(fault.kind, fault.message, _error_body(said).error.retry_after_s)
        raise fault

    async def close(self) -> None:
        """Close all connections."""
        for _, session in self._sessions.values():
            await session.close()
        self._sessions.clear()
        if self._closing:
            await asyncio.wait(self._closing)
        if self._folder is not None:
            os.close(self._folder)
            self._folder = None

    def _session(self, worker: str, epoch: int) -> aiohttp.ClientSession:
        known = self._sessions.get(worker)
        if known is not None and known[0] == epoch:
            return known[1]
        self._drop(worker)
        if self._folder is not None and os.fstat(self._folder).st_nlink == 0:  # removed, and made anew since
            os.close(self._folder)
            self._folder = None
        if self._folder is None:
            self._folder = os.open(self._layout.live, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        name = os.path.basename(self._layout.live_socket(worker))
        session = aiohttp.ClientSession(
            connector=aiohttp.UnixConnector(f"/proc/self/fd/{self._folder}/{name}", limit=0, keepalive_timeout=KEEP_S),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S),
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        self._sessions[worker] = (epoch, session)
        return session

    def _drop(self, worker: str) -> None:
        """Close its connections; they break off what still runs on them."""
        known = self._sessions.pop(worker, None)
        if known is not None:
            task = asyncio.get_running_loop().create_task(known[1].close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
