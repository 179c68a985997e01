"""One look at the whole swarm, shared by all clients, pages and event streams of the HTTP server."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from swarm.http.cached import Cache, Cached
from swarm.runtime.open import open_observer, open_queue
from swarm.supervisor.state import load_plan, load_visibility
from swarm.views.overview import StatusView, look

if TYPE_CHECKING:
    from swarm.brain.observe import Observer
    from swarm.config.settings import Settings
    from swarm.core.snapshot import SwarmSnapshot

FRESH_S = 1.0
"""Who asks within this time gets the same look."""


@dataclass(frozen=True)
class SwarmLook:
    """What there was at one moment."""

    snapshot: SwarmSnapshot
    status: StatusView


class SwarmObserver:
    """Looks when somebody asks. Nobody who asks: no look, no cost."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._queue = open_queue(settings)  # its own: the observer shares its counts, and is for one thread at a time
        self._observer: Observer | None = None
        self._planned: tuple[object, object] = (None, None)
        self._cache = Cache(self._look, FRESH_S)

    def _look(self) -> SwarmLook:
        snapshot = self._opened().snapshot()
        return SwarmLook(snapshot, look(self._settings, self._queue, snapshot))

    def _opened(self) -> Observer:
        """The cards to read are those of the swarm's plan: one that starts later, or with others, has another plan."""
        workers = Path(self._settings.queue.root) / "workers"
        planned = (load_plan(workers), load_visibility(workers))
        if self._observer is None or planned != self._planned:
            self._observer = open_observer(self._settings, self._queue)
            self._planned = planned
        return self._observer

    async def look(self, fresh_s: float | None = None) -> Cached[SwarmLook]:
        """The swarm as it is, ``FRESH_S`` (or ``fresh_s``) old at most. Raises ``StorageFault``."""
        return await self._cache.get(fresh_s)
