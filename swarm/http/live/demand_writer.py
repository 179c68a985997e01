"""Tells the brain what live requests wait for: writes ``live/demand.json`` and wakes it.

Written when a number changes, at most every ``WRITE_S``, and every ``REFRESH_S`` while it names a model. On a thread.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from swarm.clock import now_iso
from swarm.core.live.demand import REFRESH_S, WRITE_S, LiveDemand, ModelDemand
from swarm.errors import StorageFault
from swarm.proc.identity import current
from swarm.queue.file_queue import FileQueue
from swarm.queue.stores.live_demand import write_demand

log = logging.getLogger(__name__)


def _numbers(demand: dict[str, ModelDemand]) -> dict[str, tuple[int, int]]:
    return {model: (one.waiting, one.in_flight) for model, one in demand.items()}


class DemandWriter:
    """``changed`` may be called as often as one likes, on the event loop."""

    def __init__(self, queue: FileQueue, demand: Callable[[], dict[str, ModelDemand]]) -> None:
        self._queue = queue
        self._demand = demand
        self._process = current()
        self._due = asyncio.Event()
        self._failed = False
        self._ending = False

    def changed(self) -> None:
        """The demand may be another one now."""
        self._due.set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Write within the block, and at its end that nothing is wanted any more."""
        task = asyncio.create_task(self._follow())
        try:
            yield
        finally:
            self._ending = True  # not cancelled: its thread could write what was wanted over what is written last
            self._due.set()
            await task
            await asyncio.to_thread(self._write, {})

    async def _follow(self) -> None:
        written: dict[str, tuple[int, int]] = {}
        while not self._ending:
            with suppress(TimeoutError):
                async with asyncio.timeout(REFRESH_S):
                    await self._due.wait()
            refresh = not self._due.is_set()
            self._due.clear()
            demand = self._demand()
            numbers = _numbers(demand)
            if numbers != written or (refresh and numbers):
                await asyncio.to_thread(self._write, demand)
                written = numbers
            await asyncio.sleep(WRITE_S)

    def _write(self, demand: dict[str, ModelDemand]) -> None:
        found = LiveDemand(process=self._process, written_at=now_iso(), models=demand)
        try:
            write_demand(self._queue.layout, self._queue.storage, found)
        except StorageFault as fault:
            if not self._failed:  # once
                log.warning("%s; models that clients wait for are not loaded meanwhile", fault.message)
            self._failed = True
            return
        self._failed = False
        self._queue.wake()
