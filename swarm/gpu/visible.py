"""A reader of the cards that one may use: the machine's, less those that ``CUDA_VISIBLE_DEVICES`` hides."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from swarm.core.gpu import GpuReading
from swarm.core.health.visible_gpus import Visibility
from swarm.gpu.timeout_reader import Reader


class VisibleReader:
    """Fits the ``GpuReader`` port around a reader of all cards.

    ``decide`` is asked once, at the first reading that shows a card: one that falls off the bus later must not give its
    number to the next.
    """

    def __init__(self, reader: Reader, decide: Callable[[Sequence[GpuReading]], Visibility]) -> None:
        self._reader = reader
        self._decide = decide
        self._decided: Visibility | None = None

    @property
    def unavailable(self) -> str | None:
        """Why the machine shows no cards; None while they are read."""
        return self._reader.unavailable

    @property
    def visibility(self) -> Visibility:
        """The decision; before any card was seen: nothing is hidden."""
        return self._decided or Visibility()

    def read(self) -> tuple[GpuReading, ...]:
        """The cards that may be used, in CUDA's order."""
        cards = self._reader.read()
        if self._decided is None and cards:
            self._decided = self._decide(cards)
        return self.visibility.of(cards)
