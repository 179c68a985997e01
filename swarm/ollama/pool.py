"""Kept-alive connections to one server, the exchanges on them, and the way to abort one from another thread."""

from __future__ import annotations

import http.client
import threading
import time

from swarm.core.faults import CancelToken
from swarm.ollama.http import READ_BYTES, Address, Connection, OnConnect

MAX_IDLE = 16
STALE_WINDOW_S = 0.25
"""A reused connection that breaks later than this after sending broke under our request, so it is not tried again."""


class Abort:
    """The link from a cancel token to the connection in use; it never touches a connection that was given back."""

    def __init__(self, cancel: CancelToken | None = None) -> None:
        self._cancel = cancel
        self._lock = threading.Lock()
        self._connection: Connection | None = None
        self.fired = False
        if cancel is not None:
            cancel.on_cancel(self._fire)

    @property
    def reason(self) -> str:
        """Why it was cancelled."""
        return (self._cancel.reason if self._cancel is not None else None) or "cancelled"

    def hold(self, connection: Connection) -> None:
        """From now on cancelling cuts this connection."""
        with self._lock:
            self._connection = connection
            if self.fired:
                connection.cut()

    def let_go(self) -> None:
        """Cancelling has no effect on the connection any more."""
        with self._lock:
            self._connection = None

    def _fire(self) -> None:
        with self._lock:
            self.fired = True
            if self._connection is not None:
                self._connection.cut()


class Exchange:
    """One request and its reply. Close it with ``close(reusable=…)``; only a reply read to its end can be reused."""

    def __init__(self, pool: Pool, connection: Connection, response: http.client.HTTPResponse, abort: Abort) -> None:
        self._pool = pool
        self._connection = connection
        self._response = response
        self._abort = abort
        self.status = response.status

    def read(self, deadline: float) -> bytes:
        """The next bytes of the body; empty at its end.

        Raises ``TimeoutError`` at ``deadline`` and ``IncompleteRead`` when the connection ends before the body does.
        """
        self._connection.deadline = deadline
        data = self._response.read1(READ_BYTES)
        if not data and self._response.length:
            raise http.client.IncompleteRead(b"", self._response.length)
        return data

    def close(self, *, reusable: bool) -> None:
        """Give the connection back, or cut it."""
        self._abort.let_go()
        whole = self._response.isclosed() or self._response.length == 0
        will_close = self._response.will_close
        self._response.close()
        if reusable and whole and not will_close and not self._abort.fired:
            self._pool.give(self._connection)
        else:
            self._connection.close()


class Pool:
    """Idle connections to one server. Thread-safe."""

    def __init__(self, address: Address, on_connect: OnConnect | None = None) -> None:
        self.address = address
        self._on_connect = on_connect
        self._idle: list[Connection] = []
        self._lock = threading.Lock()

    def open(self, request: bytes, method: str, *, deadline: float, abort: Abort) -> Exchange:
        """Send ``request``; returns once the head of the reply is here. Raises ``OSError`` and ``HTTPException``.

        A kept connection may have died with the server that held it: if it breaks at once, before any byte of a
        reply, the request is sent once more on a fresh one.
        """
        connection = self._take(deadline)
        sent = time.monotonic()
        try:
            return self._exchange(connection, request, method, abort)
        except ConnectionError:
            if not connection.reused or abort.fired or time.monotonic() - sent > STALE_WINDOW_S:
                raise
        return self._exchange(Connection(self.address, deadline, self._on_connect), request, method, abort)

    def _exchange(self, connection: Connection, request: bytes, method: str, abort: Abort) -> Exchange:
        abort.hold(connection)
        try:
            return Exchange(self, connection, connection.exchange(request, method), abort)
        except BaseException:
            abort.let_go()
            connection.close()
            raise

    def _take(self, deadline: float) -> Connection:
        while True:
            with self._lock:
                connection = self._idle.pop() if self._idle else None
            if connection is None:
                return Connection(self.address, deadline, self._on_connect)
            if not connection.is_stale():
                connection.deadline = deadline
                return connection
            connection.close()

    def give(self, connection: Connection) -> None:
        """Keep a connection for the next request."""
        connection.reused = True
        with self._lock:
            if len(self._idle) < MAX_IDLE:
                self._idle.append(connection)
                return
        connection.close()

    def close(self) -> None:
        """Close all idle connections."""
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()
