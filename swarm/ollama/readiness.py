"""Asks a starting server until it answers, in a thread of its own, so that no loop ever waits for a silent server."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Callable

from swarm.ollama.classify import shown_text
from swarm.ollama.http import OnConnect

READ_TIMEOUT_S = 5.0
"""``/api/ps`` may stall some seconds in normal life; longer is no usable server."""
_PAUSE_S = 0.02
_PAUSE_MAX_S = 0.5


class ReadinessProbe:
    """Ready = ``/api/version`` answers (it lives) and then ``/api/ps`` (its scheduler does).

    A server accepts connections before it answers any, so a connection proves nothing. ``alive`` is asked before each
    look, ``on_connect`` of each connection: a dead server's port may be answered by somebody else. ``on_ready`` is called
    once, from the probe's thread.
    """

    def __init__(
        self, host: str, port: int, *, alive: Callable[[], bool], on_ready: Callable[[], None], on_connect: OnConnect
    ) -> None:
        self._host = host
        self._port = port
        self._on_connect = on_connect
        self._alive = alive
        self._on_ready = on_ready
        self._started_s = time.monotonic()
        self._ready = threading.Event()
        self._cancelled = threading.Event()
        self.last_answer = "no answer yet"
        self._thread = threading.Thread(target=self._run, name=f"ready-{port}", daemon=True)

    @property
    def ready(self) -> bool:
        """Whether both answered."""
        return self._ready.is_set()

    @property
    def age_s(self) -> float:
        """Seconds since it began to ask."""
        return time.monotonic() - self._started_s

    def start(self) -> None:
        """Begin to ask."""
        self._thread.start()

    def cancel(self) -> None:
        """Stop asking; returns at once."""
        self._cancelled.set()

    def _run(self) -> None:
        pause_s = _PAUSE_S
        while not self._cancelled.is_set() and self._alive():
            if self._ask("/api/version") and self._ask("/api/ps") and self._alive() and not self._cancelled.is_set():
                self._ready.set()
                self._on_ready()
                return
            self._cancelled.wait(pause_s)
            pause_s = min(pause_s * 1.5, _PAUSE_MAX_S)

    def _ask(self, path: str) -> bool:
        connection = http.client.HTTPConnection(self._host, self._port, timeout=READ_TIMEOUT_S)
        try:
            connection.connect()
            self._on_connect(connection.sock, time.monotonic() + READ_TIMEOUT_S)
            connection.request("GET", path)
            response = connection.getresponse()
            body = response.read(1 << 20)
            if response.status != http.client.OK:
                self.last_answer = f"{path} answered {response.status}"
                return False
            json.loads(body)
        except (OSError, http.client.HTTPException) as error:
            self.last_answer = f"{path}: {shown_text(str(error) or type(error).__name__)}"
            return False
        except (ValueError, RecursionError):
            self.last_answer = f"{path} answered something that is not JSON"
            return False
        finally:
            connection.close()
        return True
