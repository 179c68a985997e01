"""A reader that never waits for a sick driver: the reading runs in a thread, and stale cards say that they are stale."""

from __future__ import annotations

import threading
import time
from typing import Protocol

import msgspec

from swarm.core.gpu import GpuReading


class Reader(Protocol):
    """What is wrapped."""

    @property
    def unavailable(self) -> str | None:
        """Why there are no cards; None while they are read."""
        ...

    def read(self) -> tuple[GpuReading, ...]:
        """All cards now."""
        ...


class TimeoutReader:
    """Fits the ``GpuReader`` port around another. ``read`` returns within ``timeout_s``; for one calling thread.

    While the driver hangs, the cards of the last good reading are returned with a ``fault``, and no second question is
    put to it: one stuck thread is all it costs. When it answers, readings go on.
    """

    def __init__(self, reader: Reader, *, timeout_s: float = 2.0) -> None:
        self._reader = reader
        self._timeout_s = timeout_s
        self._last: tuple[GpuReading, ...] = ()
        self._asked: _Question | None = None

    @property
    def unavailable(self) -> str | None:
        """Why there are no cards; None while they are read."""
        if self._asked is not None:
            return f"the GPU driver has not answered for {time.monotonic() - self._asked.since_s:.0f} s"
        return self._reader.unavailable

    def read(self) -> tuple[GpuReading, ...]:
        """All cards now, or the last ones known with a ``fault``. Raises what the inner reader raised."""
        waiting = self._asked
        question = waiting or _Question(self._reader)
        # A driver that hung once is only looked in upon: the caller does not pay the full wait each time.
        if not question.done.wait(self._timeout_s if waiting is None else 0.0):
            self._asked = question
            age_s = time.monotonic() - question.since_s
            fault = f"the GPU driver has not answered for {age_s:.0f} s"
            return tuple(msgspec.structs.replace(card, fault=fault) for card in self._last)
        self._asked = None
        if question.error is not None:
            raise question.error
        self._last = question.answer
        return self._last


class _Question:
    """One reading under way."""

    def __init__(self, reader: Reader) -> None:
        self.since_s = time.monotonic()
        self.done = threading.Event()
        self.answer: tuple[GpuReading, ...] = ()
        self.error: Exception | None = None
        self._reader = reader
        threading.Thread(target=self._ask, name="gpu-reader", daemon=True).start()

    def _ask(self) -> None:
        try:
            self.answer = self._reader.read()
        except Exception as error:  # noqa: BLE001 - carried over to the caller's thread, where it is raised
            self.error = error
        finally:
            self.done.set()
