"""HTTP over one socket whose every read and write has a deadline, and which another thread can cut.

``http.client`` parses the replies. Proxies in the environment are never used: model servers are local.
"""

from __future__ import annotations

import http.client
import io
import select
import socket
import time
from collections.abc import Callable
from typing import cast
from urllib.parse import urlsplit

from swarm.errors import ConfigError

CONNECT_S = 5.0
READ_BYTES = 65536


class Address:
    """Host, port and path prefix of a base URL. Raises ``ConfigError`` for anything but plain ``http://host:port``."""

    def __init__(self, base_url: str) -> None:
        try:
            parts = urlsplit(base_url)
            port = parts.port
            (parts.hostname or "").encode("idna")  # what looking it up would fail of
        except ValueError as error:
            raise ConfigError(f"{base_url!r} is no URL: {error}", hint="write http://127.0.0.1:11434") from error
        if parts.scheme != "http" or not parts.hostname:
            raise ConfigError(f"{base_url!r} is no plain HTTP address", hint="write http://127.0.0.1:11434")
        self.host = parts.hostname
        self.port = port or 80
        self.prefix = parts.path.rstrip("/")
        shown = f"[{self.host}]" if ":" in self.host else self.host
        self.netloc = f"{shown}:{self.port}"

    def request(self, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> bytes:
        """The bytes of a request; head and body together, so that they leave in one packet."""
        lines = [f"{method} {self.prefix}{path} HTTP/1.1", f"Host: {self.netloc}", "Accept: application/json"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        if body is not None:
            lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + (body or b"")


OnConnect = Callable[[socket.socket, float], None]
"""Sees a new connection before the first byte is sent, by a deadline (monotonic seconds); raises to refuse it."""


class ConnectTimeout(OSError):
    """Nobody took the connection: told apart from a server that took it and stays silent."""


class Connection:
    """One socket. ``deadline`` (monotonic seconds) bounds every read and write; ``TimeoutError`` once it has passed."""

    def __init__(self, address: Address, deadline: float, on_connect: OnConnect | None = None) -> None:
        connect_s = min(CONNECT_S, max(deadline - time.monotonic(), 0.001))
        try:
            self._socket = socket.create_connection((address.host, address.port), timeout=connect_s)
        except TimeoutError as error:
            raise ConnectTimeout(f"no connection within {connect_s:.1f} s") from error
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.deadline = deadline
        self.reused = False
        self._on_connect = on_connect

    def exchange(self, request: bytes, method: str) -> http.client.HTTPResponse:
        """Send a request and read the head of its reply. Nothing is sent before ``on_connect`` has let it pass."""
        if self._on_connect is not None:
            self._on_connect(self._socket, self.deadline)
            self._on_connect = None
        self._arm()
        self._socket.sendall(request)
        response = http.client.HTTPResponse(cast("socket.socket", self), method=method)
        response.begin()
        return response

    def makefile(self, _mode: str) -> io.BufferedReader:
        """What ``HTTPResponse`` reads from. Closing it leaves the socket open."""
        return io.BufferedReader(_Reads(self), READ_BYTES)

    def recv_into(self, buffer: memoryview) -> int:
        self._arm()
        return self._socket.recv_into(buffer)

    def _arm(self) -> None:
        left_s = self.deadline - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("deadline passed")
        self._socket.settimeout(left_s)

    def is_stale(self) -> bool:
        """Whether an idle connection was closed by the server (or has bytes nobody asked for)."""
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        return bool(poll.poll(0))

    def cut(self) -> None:
        """End whatever read or write goes on in another thread. Safe at any time, any number of times."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            return  # not connected any more: then nobody is blocked on it

    def close(self) -> None:
        self._socket.close()


class _Reads(io.RawIOBase):
    """The reading side of a connection as a file."""

    def __init__(self, connection: Connection) -> None:
        super().__init__()
        self._connection = connection

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        return self._connection.recv_into(buffer)
