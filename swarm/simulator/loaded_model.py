"""A model that is ready to work: its slots, its speed, and those who wait for its tokens."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable

from swarm.core.models.sim_model import SimModel
from swarm.simulator.http import ApiError
from swarm.simulator.knobs import Knobs
from swarm.simulator.pace import Pace, curve_of, drift_of
from swarm.simulator.slot_pool import SlotPool


class LoadedModel:
    """What a request needs of a loaded model. ``num_ctx`` is the context of one request, in tokens."""

    def __init__(self, model: SimModel, num_ctx: int, slots: int, knobs: Callable[[], Knobs]) -> None:
        self.model = model
        self._knobs = knobs
        self.num_ctx = num_ctx
        self.parallel = slots
        self.slots = SlotPool(slots)
        self.size_mib = 0
        self.vram_mib = 0
        self.ended = asyncio.Event()
        self._waiters: set[asyncio.Future[None]] = set()
        self._random = random.Random(knobs().seed)
        self._began = asyncio.get_running_loop().time()
        self.prompts = Pace(lambda _: self._knobs().prompt_tokens_per_s * self.factor())
        self.answers = Pace(self._rate, self._next_change)
        self.tokens_at_work = 0
        """Of the requests that have a slot: prompts and whole answers."""

    def _rate(self, running: int) -> float:
        curve = curve_of(self._knobs().curve)
        return curve.rate(running) * self.factor() if curve else self._knobs().tokens_per_s * running * self.factor()

    def _next_change(self) -> float:
        now = asyncio.get_running_loop().time()
        moments = (self._began + moment for moment, _ in drift_of(self._knobs().drift))
        return min((moment for moment in moments if moment > now), default=math.inf)

    def factor(self) -> float:
        """How much faster than the knobs say it is now: what has spilled slows it down, drift changes it."""
        elapsed_s = asyncio.get_running_loop().time() - self._began
        drifted = [factor for moment, factor in drift_of(self._knobs().drift) if moment <= elapsed_s]
        slower = 1 + (self._knobs().spill_factor - 1) * self.cpu_share
        return (drifted[-1] if drifted else 1.0) / slower

    def luck(self) -> float:
        """How much faster than others one request is."""
        noise = self._knobs().noise
        return math.exp(self._random.gauss(0, noise)) if noise else 1.0

    def take(self, tokens: int) -> None:
        """A request begins that will need so many tokens of context. Raises ``ApiError`` where that is too many."""
        self.tokens_at_work += tokens
        if 0 < self._knobs().oom_tokens < self.tokens_at_work:
            self.run_out_of_memory()

    def give_back(self, tokens: int) -> None:
        """It has ended."""
        self.tokens_at_work -= tokens

    def run_out_of_memory(self) -> None:
        """Let the runner die for want of memory. Raises what the request hears that was one too many."""
        raise self.stopped()

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
        self.fail_all(self.died())

    def fail_all(self, error: ApiError) -> None:
        """End all requests at work with an error."""
        for future in self._waiters:
            if not future.done():
                future.set_exception(error)


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
