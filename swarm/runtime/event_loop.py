"""An asyncio event loop on a thread of its own, for requests that wait by the hundred."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import CancelledError, Future
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import suppress
from typing import Any, TypeVar

from swarm.core.faults import CancelToken, fault_of_stop

T = TypeVar("T")
CLOSE_S = 2.0


class EventLoop:
    """Runs coroutines; every method is safe from any thread but the loop's own.

    A daemon thread: a request stuck in a dead server must never keep the process alive.
    """

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=name, daemon=True)
        self._tasks: set[asyncio.Task[None]] = set()
        """The loop itself holds its tasks weakly."""
        self._closers: list[Callable[[], Coroutine[Any, Any, None]]] = []
        self._thread.start()

    def start(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Run it, beside all others."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def start_all(self, works: Sequence[Coroutine[Any, Any, None]]) -> None:
        """Run them, beside all others; waking the loop once costs as much for hundreds as for one. They must not raise."""

        def start() -> None:
            for work in works:
                task = self._loop.create_task(work)
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

        self._loop.call_soon_threadsafe(start)

    def call(self, work: Coroutine[Any, Any, T], cancel: CancelToken | None = None) -> T:
        """Run it and wait for its result. Raises what it raises; ``TaskFault`` once ``cancel`` was fired."""
        assert threading.current_thread() is not self._thread, "it would wait for itself"
        if cancel is not None and cancel.reason is not None:
            work.close()
            raise fault_of_stop(cancel.reason)
        future = self.start(work)

        def cut() -> None:
            future.cancel()

        if cancel is not None:
            cancel.on_cancel(cut)
        try:
            return future.result()
        except CancelledError as error:
            raise fault_of_stop((cancel.reason if cancel is not None else None) or "cancelled") from error

    def at_close(self, closer: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Await this in ``close``."""
        self._closers.append(closer)

    def close(self) -> None:
        """Cancel what runs, await the closers, end the loop; the process's end takes what hangs for ``CLOSE_S``."""
        if self._loop.is_closed():
            return
        with suppress(FutureTimeout):
            self.start(self._end()).result(CLOSE_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CLOSE_S)
        if not self._thread.is_alive():
            self._loop.close()

    async def _end(self) -> None:
        own = asyncio.current_task()
        running = [task for task in asyncio.all_tasks() if task is not own]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        for closer in self._closers:
            await closer()
