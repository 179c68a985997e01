"""A client of a worker's live socket, as the HTTP server is one: each request on a connection of its own."""

from __future__ import annotations

import http.client
import json
import os
import socket
from collections.abc import Iterator
from typing import Any


class UnixConnection(http.client.HTTPConnection):
    """Through the socket's directory: its path may be too long for an address."""

    def __init__(self, path: str, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        folder, name = os.path.split(self._path)
        folder_fd = os.open(folder, os.O_PATH | os.O_DIRECTORY)
        try:
            self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self.sock.settimeout(self.timeout)
            self.sock.connect(f"/proc/self/fd/{folder_fd}/{name}")
        finally:
            os.close(folder_fd)


class LiveAnswer:
    """The answer to one request, read as it comes."""

    def __init__(self, path: str, body: bytes, *, timeout_s: float = 60.0) -> None:
        self._connection = UnixConnection(path, timeout_s)
        self._connection.request("POST", "/run", body)
        self._reply = self._connection.getresponse()
        self.status = self._reply.status

    def lines(self) -> Iterator[dict[str, Any]]:
        """Each piece as it comes; of a refusal its one object."""
        while line := self._reply.readline():
            yield json.loads(line)
        self.hang_up()

    def hang_up(self) -> None:
        """Close the connection, whatever has come."""
        self._reply.close()
        self._connection.close()


def live_body(request_id: str, request: dict[str, Any], endpoint: str = "/api/chat", **more: Any) -> bytes:
    """One request as the worker wants it."""
    return json.dumps({"id": request_id, "endpoint": endpoint, "request": request, **more}).encode()
