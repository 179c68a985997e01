"""Bounds each reading of the cards, by a thread.

While the driver hangs, the last cards read are returned with a fault.
"""

from __future__ import annotations

import threading
import time
from typing import Protocol

import msgspec

from swarm.core.gpu_reading import GpuReading


class Reader(Protocol):
    """The reader that is wrapped."""

    @property
    def unavailable(self) -> str | None:
        """Why there are no cards; None while they are read."""
        ...

    def read(self) -> tuple[GpuReading, ...]:
        """All cards now."""
        ...


class TimeoutReader:
    """Fits the ``GpuReader`` port around another; thread-safe. ``read`` takes ``timeout_s``, and waits for those before it.

    Until cards have been read once it takes ``first_s``: a driver that nobody uses is loaded then, for seconds per card.
    While the driver hangs, the cards of the last good reading are returned with a ``fault``, and no second reading is
    begun: one stuck thread is all it costs. When it answers, readings go on.
    """

    def __init__(self, reader: Reader, *, timeout_s: float = 2.0, first_s: float | None = None) -> None:
        """``first_s``: None is ``timeout_s``."""
        self._reader = reader
        self._timeout_s = timeout_s
        self._first_s = timeout_s if first_s is None else first_s
        self._last: tuple[GpuReading, ...] = ()
        self._pending: _Reading | None = None
        self._lock = threading.Lock()

    @property
    def unavailable(self) -> str | None:
        """Why there are no cards; None while they are read."""
        pending = self._pending
        return self._reader.unavailable if pending is None else pending.silence()

    def read(self) -> tuple[GpuReading, ...]:
        """All cards now, or the last ones known with a ``fault``. Raises what the inner reader raised."""
        with self._lock:
            # A driver that hung once is only looked in upon: the caller does not pay the full wait each time.
            patience_s = self._timeout_s if self._last else self._first_s
            wait_s = patience_s if self._pending is None else 0.0
            reading = self._pending or _Reading(self._reader)
            if not reading.done.wait(wait_s):
                self._pending = reading
                return tuple(msgspec.structs.replace(card, fault=reading.silence()) for card in self._last)
            self._pending = None
            if reading.error is not None:
                raise reading.error
            self._last = reading.cards
            return self._last


class _Reading:
    """One reading under way."""

    def __init__(self, reader: Reader) -> None:
        self._since_s = time.monotonic()
        self.done = threading.Event()
        self.cards: tuple[GpuReading, ...] = ()
        self.error: Exception | None = None
        self._reader = reader
        threading.Thread(target=self._ask, name="gpu-reader", daemon=True).start()

    def silence(self) -> str:
        """For how long it has been under way."""
        return f"the GPU driver has not answered for {time.monotonic() - self._since_s:.0f} s"

    def _ask(self) -> None:
        try:
            self.cards = self._reader.read()
        except Exception as error:  # noqa: BLE001 - carried over to the caller's thread, where it is raised
            self.error = error
        finally:
            self.done.set()
