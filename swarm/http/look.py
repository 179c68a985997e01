"""One look at the whole swarm, shared by all clients, pages and event streams of the HTTP server."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from swarm.http.cached import Cache, Cached
from swarm.runtime.open import open_observer
from swarm.views.overview import StatusView, look

if TYPE_CHECKING:
    from swarm.config.settings import Settings
    from swarm.core.snapshot import SwarmSnapshot
    from swarm.queue.file_queue import FileQueue

FRESH_S = 1.0
"""Who asks within this time gets the same look."""


@dataclass(frozen=True)
class SwarmLook:
    """What there was at one moment."""

    snapshot: SwarmSnapshot
    status: StatusView


class SwarmObserver:
    """Looks when somebody asks. Nobody who asks: no look, no cost."""

    def __init__(self, settings: Settings, queue: FileQueue) -> None:
        observer = open_observer(settings, queue)

        def make() -> SwarmLook:
            snapshot = observer.snapshot()
            return SwarmLook(snapshot, look(settings, queue, snapshot))

        self._cache = Cache(make, FRESH_S)

    async def look(self, fresh_s: float | None = None) -> Cached[SwarmLook]:
        """The swarm as it is, ``FRESH_S`` (or ``fresh_s``) old at most. Raises ``StorageFault``."""
        return await self._cache.get(fresh_s)
