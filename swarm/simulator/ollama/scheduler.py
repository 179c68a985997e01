"""The models in memory of a simulated server.

One load at a time, unbounded waiting for slots, a bounded queue for loads.
"""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from swarm.core.models.sim_model import COMPUTE_MIB, MIB, TRAINED_CONTEXT, SimModel
from swarm.simulator.cards import Cards
from swarm.simulator.http import ApiError
from swarm.simulator.knobs import Knobs
from swarm.simulator.loaded_model import LoadedModel
from swarm.simulator.ollama.call import LoadOptions
from swarm.simulator.ollama.environment import ServerEnv
from swarm.simulator.ollama.runner import RunnerProcess

FOREVER = timedelta(days=292 * 365)
LEAST_CONTEXT = 4
RUNNER_DIED = "an error was encountered while running the model: "
CUDA_OUT_OF_MEMORY = "CUDA error: out of memory"
RUNNER_STOPPED = (
    "model runner has unexpectedly stopped, this may be due to resource limitations or an internal error, "
    "check ollama server logs for details"
)


class ModelInMemory(LoadedModel):
    """A model in memory. ``refs`` counts requests that use it, waiting for a slot or running."""

    def __init__(self, model: SimModel, options: LoadOptions, slots: int, knobs: Callable[[], Knobs]) -> None:
        super().__init__(model, options.num_ctx, slots, knobs)
        self._last_words = ""
        """What the runner said before it died by itself."""
        self.options = options
        self.process: RunnerProcess | None = None
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

    def stopped(self) -> ApiError:
        return ApiError(500, f"{RUNNER_STOPPED}: {self._last_words}" if self._last_words else RUNNER_STOPPED)

    def died(self) -> ApiError:
        return ApiError(500, RUNNER_DIED + (self._last_words or "unexpected EOF"))

    def run_out_of_memory(self) -> None:
        self._last_words = CUDA_OUT_OF_MEMORY
        if self.process is None:
            self.mark_ended()
            raise self.died()
        self.process.crash()

    async def crash(self) -> None:
        if self.process is None:
            raise self.stopped()
        self.process.crash()
        await self.sleep_until(math.inf)

    def expire_in(self, seconds: float) -> None:
        """Set what ``expires_at`` shows."""
        self._expires = None if math.isinf(seconds) else datetime.now(UTC) + timedelta(seconds=seconds)

    def expires_at(self) -> str:
        """RFC 3339 with the local offset; centuries ahead means for ever, past means ordered out but still busy."""
        return (self._expires or datetime.now(UTC) + FOREVER).astimezone().isoformat()

    def ps_entry(self) -> dict[str, Any]:
        """One line of ``/api/ps``; zeros are reported, ``size_vram`` 0 above all."""
        return {
            "name": self.model.name,
            "model": self.model.name,
            "size": self.size_mib * MIB,
            "digest": self.model.digest,
            "details": self.model.details,
            "expires_at": self.expires_at(),
            "size_vram": self.vram_mib * MIB,
            "context_length": max(min(self.options.num_ctx, TRAINED_CONTEXT), LEAST_CONTEXT),
        }

    def mark_ended(self) -> None:
        super().mark_ended()
        if self.timer is not None:
            self.timer.cancel()


class Scheduler:
    """The models in memory of one server."""

    def __init__(self, env: ServerEnv, cards: Cards, knobs: Callable[[], Knobs]) -> None:
        self._env = env
        self._cards = cards
        self._knobs = knobs
        self._load_lock = asyncio.Lock()
        self.loaded: list[ModelInMemory] = []
        self.queued = 0
        """Requests that wait for a load, the one that loads included."""
        self.loads = 0
        self.unloads = 0

    async def acquire(self, model: SimModel, options: LoadOptions, keep_alive_s: float | None) -> ModelInMemory:
        """The model in memory with these options, loading it if need be; give it back with ``release``.

        ``keep_alive_s`` counts from now on, so that it calls off an unload ordered before, not one ordered later; None
        keeps what was set. Cancelling the call that loads aborts the load. Raises ``ApiError``: 503 when too many wait
        for loads, 500 when the load fails.
        """
        found = self._usable(model, options)
        if found is None:
            if self.queued >= self._env.max_queue:
                raise ApiError(503, "server busy, please try again.  maximum pending requests exceeded")
            self.queued += 1
            try:
                async with self._load_lock:
                    found = self._usable(model, options) or await self._load(model, options)
            finally:
                self.queued -= 1
        if keep_alive_s is not None and not found.evicted:
            found.keep_alive_s = keep_alive_s
        found.refs += 1
        if found.timer is not None:
            found.timer.cancel()
            found.timer = None
        return found

    def release(self, loaded: ModelInMemory) -> None:
        """End of a request; the countdown starts anew."""
        loaded.refs -= 1
        loaded.used_at = time.monotonic()
        self._arm(loaded)

    def unload(self, model: SimModel) -> None:
        """Order a model out; it goes when its requests have ended."""
        for loaded in [one for one in self.loaded if one.model.name == model.name]:
            self._expire(loaded)

    def kill_all(self) -> None:
        """End of the server: runners are killed and waited for."""
        for loaded in list(self.loaded):
            self._remove(loaded)

    def _usable(self, model: SimModel, options: LoadOptions) -> ModelInMemory | None:
        for loaded in self.loaded:
            if loaded.model.name == model.name and loaded.options == options and not (loaded.stopping or loaded.dead):
                return loaded
        return None

    async def _load(self, model: SimModel, options: LoadOptions) -> ModelInMemory:
        knobs = self._knobs()
        fresh = ModelInMemory(model, options, 1 if model.one_slot else self._env.parallel, self._knobs)
        fresh.keep_alive_s = self._env.keep_alive_s
        fresh.size_mib = model.size_mib + COMPUTE_MIB + model.context_mib(options.num_ctx * fresh.parallel)
        await self._make_room(fresh)
        if knobs.fail_load:
            await asyncio.sleep(knobs.load_s)
            raise ApiError(500, knobs.fail_load)
        fresh.vram_mib = self._place(fresh)
        if knobs.runner == "process":
            fresh.process = await RunnerProcess.start(model.name, lambda: self._died(fresh))
        try:
            await asyncio.wait_for(fresh.ended.wait(), knobs.load_s)
        except TimeoutError:
            return self._ready(fresh)
        except asyncio.CancelledError:
            self._remove(fresh)
            raise
        raise ApiError(500, "llama-server process has terminated: signal: killed")

    def _ready(self, fresh: ModelInMemory) -> ModelInMemory:
        self.loads += 1
        self.loaded.append(fresh)
        self._show(fresh)
        fresh.expire_in(fresh.keep_alive_s)
        return fresh

    async def _make_room(self, fresh: ModelInMemory) -> None:
        """Unload what must go first, and wait for that, however long its requests take."""
        for corpse in [one for one in self.loaded if one.dead]:
            self._remove(corpse)
        while victim := self._victim(fresh):
            victim.evicted = True
            self._expire(victim)
            await victim.ended.wait()

    def _victim(self, fresh: ModelInMemory) -> ModelInMemory | None:
        for loaded in self.loaded:
            if loaded.model.name == fresh.model.name:
                return loaded
        if len(self.loaded) < self._env.max_loaded and fresh.size_mib <= self._free_mib():
            return None
        return min(self.loaded, key=lambda one: (one.refs > 0, one.used_at), default=None)

    def _free_mib(self) -> int:
        own = {one.process.pid for one in self.loaded if one.process} | {os.getpid()}
        used = sum(one.vram_mib for one in self.loaded) + self._cards.used_by_others_mib(own)
        return self._knobs().vram_mib * self._env.gpus - used

    def _place(self, fresh: ModelInMemory) -> int:
        """How much of a model goes on the cards, MiB. Raises ``ApiError`` where old releases refused."""
        knobs = self._knobs()
        match knobs.placement:
            case "gpu":
                return fresh.size_mib
            case "partial":
                return fresh.size_mib // 2
            case "none":
                return 0
            case "auto":
                pass
        free = max(self._free_mib(), 0)
        if self._env.gpus == 0 or fresh.options.num_gpu == 0:
            return 0
        if fresh.size_mib > free and knobs.overflow == "refuse":
            raise _does_not_fit(fresh, free)
        return min(fresh.size_mib, free)

    def _expire(self, loaded: ModelInMemory) -> None:
        loaded.keep_alive_s = 0.0
        loaded.expire_in(0.0)
        if loaded.refs == 0:
            self._stop(loaded)

    def _arm(self, loaded: ModelInMemory) -> None:
        if loaded.refs or loaded.stopping or loaded not in self.loaded:
            return
        loaded.expire_in(loaded.keep_alive_s)
        if loaded.keep_alive_s <= 0:
            self._stop(loaded)
        elif not math.isinf(loaded.keep_alive_s):
            loaded.timer = asyncio.get_running_loop().call_later(loaded.keep_alive_s, self._expire, loaded)

    def _stop(self, loaded: ModelInMemory) -> None:
        """No request uses it: after a while, like in the real one, it is unloaded and its memory free."""
        if not loaded.stopping:
            loaded.stopping = True
            asyncio.get_running_loop().call_later(self._knobs().unload_s, self._remove, loaded)

    def _died(self, loaded: ModelInMemory) -> None:
        """Its runner ended by itself: its requests fail, its memory is free, and nobody else notices."""
        if loaded not in self.loaded:
            self._remove(loaded)
            return
        loaded.dead = True
        if loaded.process is not None:
            self._cards.clear(loaded.process.pid)
        loaded.mark_ended()
        self._arm(loaded)

    def _remove(self, loaded: ModelInMemory) -> None:
        if loaded.process is not None:
            loaded.process.kill()
            self._cards.clear(loaded.process.pid)
        if loaded in self.loaded:
            self.loaded.remove(loaded)
            self.unloads += 1
            if loaded.process is None:
                self._show(loaded)
        loaded.mark_ended()

    def _show(self, loaded: ModelInMemory) -> None:
        """Let the memory show on the cards: under the runner's pid, or, without runners, all of it under the server's."""
        if loaded.process is not None:
            self._cards.show(loaded.process.pid, loaded.vram_mib, loaded.model.name)
            return
        own = [one for one in self.loaded if one.process is None]
        if own:
            self._cards.show(os.getpid(), sum(one.vram_mib for one in own), ",".join(one.model.name for one in own))
        else:
            self._cards.clear(os.getpid())


def _does_not_fit(fresh: ModelInMemory, free_mib: int) -> ApiError:
    """What Ollama says where even the weights are too big, or, in the words of its llama-server, only the context is."""
    if fresh.model.size_mib + COMPUTE_MIB > free_mib:
        wanted, there = (f"{mib / 1024:.1f} GiB" for mib in (fresh.size_mib, free_mib))
        return ApiError(500, f"model requires more system memory ({wanted}) than is available ({there})")
    return ApiError(
        500,
        "llama-server process has terminated: exit status 1: cudaMalloc failed: out of memory\n"
        f"alloc_tensor_range: failed to allocate CUDA0 buffer of size {(fresh.size_mib - fresh.model.size_mib) * MIB}\n"
        "llama_init_from_model: failed to initialize the context: failed to allocate buffer for kv cache",
    )
