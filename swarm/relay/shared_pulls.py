"""Downloads of models to this node: one at a time of each model, shared by all that ask for it.

* Within this relay by the model's name; among relays of one root by a lock file, since two servers that download the same
  model write the same partial files.
* It is given up once nobody waits for it any more.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from filelock import FileLock, Timeout

from swarm.core.faults import CancelToken, fault_of_stop
from swarm.core.models.model_server import PullStep
from swarm.core.task import canonical_model
from swarm.worker.attempt import Cancel

Fetch = Callable[[Callable[[PullStep], None], CancelToken], None]
"""Downloads it, on a thread. Raises ``TaskFault``."""
OnStep = Callable[[PullStep], None]
_LOOK_S = 0.5
AT_ONCE = 16
"""Downloads; others wait. On threads of their own: the loop's few are for names and connections of requests."""
WAITS = PullStep(status="waits for another download of it on this node")


class _Pull:
    def __init__(self) -> None:
        self.cancel = Cancel()
        self.listeners: list[OnStep] = []
        self.last = PullStep()
        self.task: asyncio.Task[None] | None = None

    def say(self, step: PullStep) -> None:
        self.last = step
        for listener in tuple(self.listeners):
            listener(step)


class SharedPulls:
    """Of one node. For one event loop."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._running: dict[str, _Pull] = {}
        self._threads = ThreadPoolExecutor(AT_ONCE, "pull")

    async def pull(self, model: str, fetch: Fetch, on_step: OnStep) -> None:
        """Have it downloaded, by ``fetch`` unless somebody else's is under way. Raises ``TaskFault``."""
        name = canonical_model(model)
        one = self._running.get(name)
        if one is None:
            one = self._running[name] = _Pull()
            one.task = asyncio.create_task(self._run(name, one, fetch))
            one.task.add_done_callback(lambda task: task.cancelled() or task.exception())  # all may have hung up
        assert one.task is not None
        one.listeners.append(on_step)
        if one.last.status:
            on_step(one.last)
        try:
            await asyncio.shield(one.task)
        finally:
            one.listeners.remove(on_step)
            if not one.listeners:
                one.cancel.cancel("cancelled")
                self._forget(name, one)

    async def _run(self, name: str, one: _Pull, fetch: Fetch) -> None:
        loop = asyncio.get_running_loop()

        def say(step: PullStep) -> None:
            loop.call_soon_threadsafe(one.say, step)

        def work() -> None:
            digest = hashlib.sha256(name.encode()).hexdigest()[:16]
            lock = FileLock(self._root / f".pull-{digest}.lock", mode=0o600, thread_local=False, fallback_to_soft=False)
            _take(lock, say, one.cancel)
            try:
                fetch(say, one.cancel)
            finally:
                lock.release(force=True)

        try:
            await loop.run_in_executor(self._threads, work)
        finally:
            self._forget(name, one)

    def _forget(self, name: str, one: _Pull) -> None:
        if self._running.get(name) is one:
            del self._running[name]


def _take(lock: FileLock, say: OnStep, cancel: Cancel) -> None:
    while True:
        if cancel.reason is not None:
            raise fault_of_stop(cancel.reason)
        try:
            lock.acquire(timeout=_LOOK_S)
        except Timeout:
            say(WAITS)
        else:
            return
