"""A model that is ready to work: its slots, its speed, and those who wait for its tokens."""

from __future__ import annotations

import asyncio
import math

from swarm.simulator.http import ApiError
from swarm.simulator.sim_model import SimModel
from swarm.simulator.slot_pool import SlotPool


class LoadedModel:
    """What a request needs of a loaded model. ``num_ctx`` is the context of one request, in tokens."""

    def __init__(self, model: SimModel, num_ctx: int, slots: int) -> None:
        self.model = model
        self.num_ctx = num_ctx
        self.parallel = slots
        self.slots = SlotPool(slots)
        self.size_mib = 0
        self.vram_mib = 0
        self.ended = asyncio.Event()
        self._waiters: set[asyncio.Future[None]] = set()

    @property
    def cpu_share(self) -> float:
        return 1 - self.vram_mib / self.size_mib if self.size_mib else 0.0

    def stopped(self) -> ApiError:
        """What a request hears that finds the runner dead."""
        return ApiError(500, "the simulated model has ended")

    def died(self) -> ApiError:
        """What a request hears under which the runner dies."""
        return self.stopped()

    async def crash(self) -> None:
        """Let the runner die under its requests. Raises what they all get to hear."""
        raise self.stopped()

    async def sleep_until(self, when: float) -> None:
        """Wait for a time on the loop's clock (infinite: for ever). Raises ``ApiError`` if the runner dies meanwhile."""
        if self.ended.is_set():
            raise self.stopped()
        loop = asyncio.get_running_loop()
        if when <= loop.time():
            return
        future: asyncio.Future[None] = loop.create_future()
        timer = None if math.isinf(when) else loop.call_at(when, _wake, future)
        try:
            await self.wait(future)
        finally:
            if timer is not None:
                timer.cancel()

    async def wait(self, future: asyncio.Future[None]) -> None:
        """Wait for a future that fails with ``died`` if the runner ends meanwhile."""
        self._waiters.add(future)
        try:
            await future
        finally:
            self._waiters.discard(future)

    def mark_ended(self) -> None:
        """Mark the runner as ended, and wake all who wait for its tokens."""
        self.ended.set()
        for future in self._waiters:
            if not future.done():
                future.set_exception(self.died())


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
