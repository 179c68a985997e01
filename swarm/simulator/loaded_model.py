"""One loaded model: its slots, its countdown, its runner, and those who wait on its tokens."""

from __future__ import annotations

import asyncio
import math
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from swarm.simulator.requests import ApiError, runner_died, runner_stopped
from swarm.simulator.runner import RunnerProcess
from swarm.simulator.store import SimModel

FOREVER = timedelta(days=292 * 365)
_INTEGERS = ("num_ctx", "num_batch", "num_gpu", "main_gpu", "num_thread", "draft_num_predict")
_OTHER_INTEGERS = ("num_predict", "top_k", "seed", "repeat_last_n", "num_keep")
_FLOATS = ("temperature", "top_p", "min_p", "typical_p", "repeat_penalty", "presence_penalty", "frequency_penalty")


class LoadOptions(msgspec.Struct, frozen=True):
    """The options that are fixed when a model is loaded; a request with others makes it load again."""

    num_ctx: int
    num_batch: int = 512
    num_gpu: int | None = None
    main_gpu: int = 0
    num_thread: int | None = None
    draft_num_predict: int | None = None
    use_mmap: bool | None = None
    shift: bool = True


def load_options(options: dict[str, Any], shift: bool | None, default_ctx: int) -> LoadOptions:  # noqa: FBT001
    """The load-time part of a request's options; fractions are cut. Raises ``ApiError`` 500 for a wrong type."""
    for name in (*_INTEGERS, *_OTHER_INTEGERS):
        value = options.get(name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float))):
            raise ApiError(500, f'option "{name}" must be of type integer')
    for name in _FLOATS:
        value = options.get(name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float))):
            raise ApiError(500, f'option "{name}" must be of type float32')
    if not isinstance(options.get("stop", []), list):
        raise ApiError(500, 'option "stop" must be of type array')
    fixed = {name: int(options[name]) for name in _INTEGERS if options.get(name) is not None}
    if fixed.get("num_gpu", 0) < 0:
        del fixed["num_gpu"]
    fixed.setdefault("num_ctx", default_ctx)
    return LoadOptions(**fixed, use_mmap=options.get("use_mmap"), shift=shift is not False)


class Loaded:
    """A model in memory. ``refs`` counts requests that use it, waiting for a slot or running."""

    def __init__(self, model: SimModel, options: LoadOptions, slots: int) -> None:
        self.model = model
        self.options = options
        self.parallel = slots
        self.slots = asyncio.Semaphore(slots)
        self.size_mib = 0
        self.vram_mib = 0
        self.process: RunnerProcess | None = None
        self.gone = asyncio.Event()
        self.stopping = False
        self.dead = False
        """Its runner died by itself. Like the real one the server does not notice, and goes on to list the model, until a
        request wants it."""
        self.refs = 0
        self.used_at = time.monotonic()
        self.keep_alive_s = math.inf
        self.evicted = False
        """Ordered out for another load: a request's own ``keep_alive`` does not save it any more."""
        self.timer: asyncio.TimerHandle | None = None
        self._expires: datetime | None = None
        self._waiters: set[asyncio.Future[None]] = set()

    @property
    def cpu_share(self) -> float:
        return 1 - self.vram_mib / self.size_mib if self.size_mib else 0.0

    def expire_in(self, seconds: float) -> None:
        """Set what ``expires_at`` shows."""
        self._expires = None if math.isinf(seconds) else datetime.now(UTC) + timedelta(seconds=seconds)

    def expires_at(self) -> str:
        """RFC 3339 with the local offset; centuries ahead means for ever, past means ordered out but still busy."""
        return (self._expires or datetime.now(UTC) + FOREVER).astimezone().isoformat()

    async def sleep_until(self, when: float) -> None:
        """Wait for a time on the loop's clock (infinite: for ever). Raises ``ApiError`` if the runner dies meanwhile."""
        if self.gone.is_set():
            raise runner_stopped()
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        timer = None if math.isinf(when) else loop.call_at(when, _wake, future)
        self._waiters.add(future)
        try:
            await future
        finally:
            self._waiters.discard(future)
            if timer is not None:
                timer.cancel()

    def mark_gone(self) -> None:
        """The runner is no more: whoever waits on its tokens learns it now."""
        self.gone.set()
        if self.timer is not None:
            self.timer.cancel()
        for future in self._waiters:
            if not future.done():
                future.set_exception(runner_died())


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
