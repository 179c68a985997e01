"""Polls a starting server until it answers, in its own thread so that no loop waits."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from swarm.core.faults import TaskFault
from swarm.engines.control_http import OnConnect
from swarm.engines.ollama.client import OllamaClient

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

    def __init__(self, url: str, *, alive: Callable[[], bool], on_ready: Callable[[], None], on_connect: OnConnect) -> None:
        self._client = OllamaClient(url, on_connect=on_connect)
        self._alive = alive
        self._on_ready = on_ready
        self._started_s = time.monotonic()
        self._ready = threading.Event()
        self._cancelled = threading.Event()
        self.last_answer = "no answer yet"
        self._thread = threading.Thread(target=self._run, name=f"ready-{url}", daemon=True)

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
        with self._client:
            while not self._cancelled.is_set() and self._alive():
                if self._answers() and self._alive() and not self._cancelled.is_set():
                    self._ready.set()
                    self._on_ready()
                    return
                self._cancelled.wait(pause_s)
                pause_s = min(pause_s * 1.5, _PAUSE_MAX_S)

    def _answers(self) -> bool:
        try:
            self._client.version(READ_TIMEOUT_S)
            self._client.ps(READ_TIMEOUT_S)
        except TaskFault as fault:
            self.last_answer = fault.message
            return False
        return True
