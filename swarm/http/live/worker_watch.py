"""Follows the workers' registrations, process locks, heartbeats and pauses, for the routing of live requests.

* Files are read on a thread: at once when a heartbeat is replaced (inotify), and every ``LOOK_S``.
* A request is routed by the last look, without a look at the disk of its own.
* A worker that died is kept in view while a supervisor runs, which will start it again: its models are still installed.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import msgspec

from swarm.config.settings import Settings
from swarm.core.lanes import Pause, Pauses
from swarm.core.live.routing import LiveWorker
from swarm.core.worker import Heartbeat, WorkerRow, WorkerStatus
from swarm.errors import StorageFault
from swarm.http.background import beside
from swarm.queue.coordination import THERE, Inotify, PauseBook, is_held
from swarm.queue.file_queue import FileQueue
from swarm.queue.stores import registry

LOOK_S = 1.0
MIN_GAP_S = 0.05
"""Between two looks: several workers replace their heartbeats within a moment."""
_TAKING = (WorkerStatus.IDLE, WorkerStatus.BUSY, WorkerStatus.LOADING)
_SILENT = "it has not been heard of lately"
log = logging.getLogger(__name__)


class WorkersSeen(msgspec.Struct, frozen=True, kw_only=True):
    """One look."""

    workers: tuple[LiveWorker, ...] = ()
    pauses: Pauses = Pauses()
    supervised: bool = False
    rows: dict[str, WorkerRow] = {}
    """Registrations of the workers that live."""
    beats: dict[str, Heartbeat] = {}


class WorkerWatch:
    """Its ``seen`` is replaced on the event loop, where ``changed`` is called after each look."""

    def __init__(self, queue: FileQueue, settings: Settings, changed: Callable[[], None]) -> None:
        self.seen = WorkersSeen()
        self._layout = queue.layout
        self._stale_s = settings.worker.heartbeat_stale_s
        self._changed = changed
        self._pauses = PauseBook(queue.layout)
        self._ages: dict[str, tuple[tuple[int, int, int], float]] = {}
        self._due = asyncio.Event()
        self._failed = False

    def look_soon(self) -> None:
        """Something was noticed that the next look should show."""
        self._due.set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Look once, then follow within the block."""
        inotify = Inotify.opened({self._layout.heartbeats: THERE})
        loop = asyncio.get_running_loop()

        def noticed() -> None:
            assert inotify is not None
            if any(event.name is None or not event.name.startswith(".") for event in inotify.events()):
                self._due.set()

        if inotify is not None:
            loop.add_reader(inotify.fd, noticed)
        await self._look()
        try:
            async with beside(self._follow()):
                yield
        finally:
            if inotify is not None:
                loop.remove_reader(inotify.fd)
                inotify.close()

    async def _follow(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):  # not wait_for, which may lose that it is cancelled (until Python 3.12)
                    await self._due.wait()
            self._due.clear()
            await self._look()
            await asyncio.sleep(MIN_GAP_S)

    async def _look(self) -> None:
        try:
            self.seen = await asyncio.to_thread(self._read, time.monotonic())
        except (StorageFault, OSError) as error:
            if not self._failed:  # once; what was seen last goes on to count
                log.warning("the workers cannot be seen: %s", error)
            self._failed = True
            return
        self._failed = False
        self._changed()

    def _read(self, now_s: float) -> WorkersSeen:
        pauses = self._pauses.read()
        supervised = is_held(self._layout, "supervisor")
        workers: list[LiveWorker] = []
        rows: dict[str, WorkerRow] = {}
        beats: dict[str, Heartbeat] = {}
        for name, row in sorted(registry.rows(self._layout).items()):
            alive, beat = is_held(self._layout, name), registry.read_heartbeat(self._layout, name)
            if row.url is None or not (alive or (supervised and _returns(beat))):
                continue
            if alive:
                rows[name] = row
                if beat is not None and beat.epoch == row.epoch:
                    beats[name] = beat
            why = "it does not run" if not alive else self._why_not(row, beat, now_s)
            workers.append(live_worker(row, beat, why, pauses.worker(name)))
        return WorkersSeen(workers=tuple(workers), pauses=pauses, supervised=supervised, rows=rows, beats=beats)

    def _why_not(self, row: WorkerRow, beat: Heartbeat | None, now_s: float) -> str:
        """What keeps a living worker from taking requests; empty: nothing."""
        if beat is None or beat.epoch != row.epoch:
            return "it is still starting"
        numbers = (beat.epoch, beat.seq, beat.turn)
        known = self._ages.get(row.name)
        if known is None or known[0] != numbers:
            self._ages[row.name] = known = (numbers, now_s)
        if now_s - known[1] > self._stale_s:
            return _SILENT
        if beat.status not in _TAKING:
            return beat.reason or f"it is {beat.status}"
        return "" if beat.live is not None else "it takes no live requests"


def _returns(beat: Heartbeat | None) -> bool:
    """Whether a worker that does not run was not stopped in good order."""
    return beat is None or beat.status is not WorkerStatus.STOPPED


def live_worker(row: WorkerRow, beat: Heartbeat | None, why: str, pause: Pause | None) -> LiveWorker:
    """A worker as routing sees it; ``why`` says what keeps it from being ready."""
    if beat is None:
        return LiveWorker(name=row.name, epoch=row.epoch, why=why, pause=pause)
    tally = beat.models.get(beat.model) if beat.model is not None else None
    return LiveWorker(
        name=row.name,
        epoch=row.epoch,
        beat=beat.seq,
        ready=not why and pause is None,
        silent=why == _SILENT,
        why=why or (pause.words if pause is not None else ""),
        pause=pause,
        model=beat.model if beat.epoch == row.epoch else None,
        limit=beat.live.limit if beat.live is not None else 0,
        servable=frozenset(beat.servable),
        listed=bool(beat.servable) or beat.status in _TAKING,
        digest=tally.digest if tally is not None else "",
        simulated=row.simulated,
    )
