"""HTTP to one model server: each request has a deadline, and another thread can cut it.

* Neither proxies, redirects, cookies nor compression: model servers are local, and not trusted.
* The deadline bounds each read and write, so a server that trickles bytes does not outlast it.
* Cancelling shuts the socket down: it works while the head of the reply is awaited as well as in mid-stream.
* A kept connection that breaks at once under a request is replaced by a fresh one, once.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from requests import RequestException, Response
from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool
from urllib3.connection import HTTPConnection
from urllib3.util import SKIP_HEADER

from swarm.core.faults import CancelToken
from swarm.engines.deadlines import Deadlines, too_large
from swarm.errors import ConfigError
from swarm.http_session import PlainSession, cause_of

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

CONNECT_S = 5.0
READ_BYTES = 65536
MAX_IDLE = 16
STALE_WINDOW_S = 0.25
"""A kept connection that breaks later than this after sending broke under our request, so it is not sent again."""

OnConnect = Callable[[socket.socket, float], None]
"""Sees a new connection before the first byte is sent, by a deadline (monotonic seconds); raises to refuse it."""


class ConnectTimeout(OSError):
    """Nobody accepted the connection; not the same as a server that accepts it and stays silent."""


class Abort:
    """The link from a cancel token to the socket in use. It never touches a socket that serves another request."""

    def __init__(self, deadlines: Deadlines, cancel: CancelToken | None = None) -> None:
        self.deadlines = deadlines
        self.fired = False
        self.on_connect: OnConnect | None = None
        self.fresh = False
        """Whether the request must not go out on a kept connection."""
        self.reused = False
        """Whether it went out on one."""
        self._cancel = cancel
        self._lock = threading.Lock()
        self._socket: _BoundedSocket | None = None
        if cancel is not None:
            cancel.on_cancel(self._fire)

    @property
    def reason(self) -> str:
        """Why it was cancelled."""
        return (self._cancel.reason if self._cancel is not None else None) or "cancelled"

    def hold(self, sock: _BoundedSocket) -> None:
        """Let cancelling cut this socket, and bound its reads and writes by our deadlines."""
        if sock.abort is not None:
            sock.abort.release()
        sock.abort = self
        with self._lock:
            self._socket = sock
            if self.fired:
                sock.cut()

    def release(self) -> None:
        """Detach the socket: cancelling no longer affects it."""
        with self._lock:
            self._socket = None

    def _fire(self) -> None:
        with self._lock:
            self.fired = True
            if self._socket is not None:
                self._socket.cut()


class _BoundedSocket(socket.socket):
    """Ends each read and write by the deadline of the request that holds it, with ``TimeoutError``."""

    abort: Abort | None = None

    def recv_into(self, buffer: WriteableBuffer, nbytes: int = 0, flags: int = 0) -> int:
        self._arm()
        return super().recv_into(buffer, nbytes, flags)

    def sendall(self, data: ReadableBuffer, flags: int = 0) -> None:
        self._arm()
        super().sendall(data, flags)

    def _arm(self) -> None:
        assert self.abort is not None
        left_s = self.abort.deadlines.next - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("deadline passed")
        self.settimeout(left_s)

    def cut(self) -> None:
        """End whatever read or write goes on in another thread. Safe at any time, any number of times."""
        with contextlib.suppress(OSError):  # not connected any more: then nobody is blocked on it
            self.shutdown(socket.SHUT_RDWR)


_current: ContextVar[Abort] = ContextVar("abort")


class _Connection(HTTPConnection):
    """Hands its socket to the request's abort before anything is sent (urllib3 has no way to cut a request by itself)."""

    def connect(self) -> None:
        connect_s = min(CONNECT_S, max(_current.get().deadlines.next - time.monotonic(), 0.001))
        try:
            plain = socket.create_connection((self.host, self.port), connect_s)
        except TimeoutError as error:
            raise ConnectTimeout(f"no connection within {connect_s:.1f} s") from error
        self.sock = _BoundedSocket(fileno=plain.detach())
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def request(self, *args: Any, **more: Any) -> None:  # noqa: ANN401
        abort = _current.get()
        if abort.fresh:
            self.close()
        abort.reused = self.sock is not None
        if not abort.reused:
            self.connect()
        assert isinstance(self.sock, _BoundedSocket)
        abort.hold(self.sock)
        if not abort.reused and abort.on_connect is not None:
            abort.on_connect(self.sock, abort.deadlines.next)
        super().request(*args, **more)


class _Pool(HTTPConnectionPool):
    ConnectionCls: type[Any] = _Connection


class HttpClient:
    """Requests to one server, on kept connections. Thread-safe."""

    def __init__(self, base_url: str, on_connect: OnConnect | None = None) -> None:
        """Raises ``ConfigError`` for anything but plain ``http://host:port``."""
        self._base_url = checked_url(base_url)
        self._on_connect = on_connect
        self._session = PlainSession()
        self._session.headers.clear()
        self._session.headers.update({"Accept": "application/json", "Accept-Encoding": SKIP_HEADER, "User-Agent": "swarm"})
        adapter = HTTPAdapter(pool_maxsize=MAX_IDLE)
        adapter.poolmanager.pool_classes_by_scheme = {"http": _Pool}
        self._session.mount("http://", adapter)

    def close(self) -> None:
        """Close idle connections; requests in flight go on."""
        self._session.close()

    def send(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str], abort: Abort) -> Response:
        """Send a request; returns once the head of the reply is here. Read it with ``body_of``, then close it.

        A kept connection may have died with the server that held it: if it breaks at once, before any byte of a
        reply, the request is sent once more on a fresh one.
        """
        abort.on_connect = self._on_connect
        before = _current.set(abort)
        if body is not None:
            headers = {"Content-Type": "application/json", **headers}
        began_s = time.monotonic()
        try:
            return self._send(method, path, body, headers)
        except RequestException as error:
            broken = isinstance(cause_of(error), ConnectionError) and abort.reused
            if not broken or abort.fired or time.monotonic() - began_s > STALE_WINDOW_S:
                raise
            abort.fresh = True
            return self._send(method, path, body, headers)
        finally:
            _current.reset(before)

    def _send(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> Response:
        return self._session.request(method, self._base_url + path, data=body, headers=headers, stream=True)


def body_of(response: Response) -> Iterator[bytes]:
    """The body in pieces, as they arrive; read to its end, the connection is kept for the next request."""
    while data := response.raw.read1(READ_BYTES):
        yield data


def read_all(body: Iterable[bytes], max_bytes: int) -> bytes:
    """The whole body. Raises ``TaskFault`` kind ``reply_too_large`` past ``max_bytes``."""
    parts: list[bytes] = []
    size = 0
    for data in body:
        size += len(data)
        if size > max_bytes:
            raise too_large(max_bytes)
        parts.append(data)
    return b"".join(parts)


def read_start(body: Iterable[bytes], max_bytes: int) -> bytes:
    """The start of a body, ``max_bytes`` at most; all of it is read only if it is no longer."""
    start = b""
    for data in body:
        start += data
        if len(start) > max_bytes:
            break
    return start[:max_bytes]


def checked_url(base_url: str) -> str:
    """The address without user and trailing slash. Raises ``ConfigError`` for anything but plain ``http://host:port``."""
    try:
        parts = urlsplit(base_url)
        _port = parts.port  # raises for what is no number
        (parts.hostname or "").encode("idna")  # what looking it up would fail of
    except ValueError as error:
        raise ConfigError(f"{base_url!r} is no URL: {error}", hint="write http://127.0.0.1:11434") from error
    if parts.scheme != "http" or not parts.hostname:
        raise ConfigError(f"{base_url!r} is no plain HTTP address", hint="write http://127.0.0.1:11434")
    return f"http://{parts.netloc.rpartition('@')[2]}{parts.path.rstrip('/')}"
