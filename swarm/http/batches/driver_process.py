"""The batch driver's process, a child of the HTTP server: reading and writing large files must not delay live requests.

It gets its settings as the first line of standard input, and ends when that is closed: with its parent, however that ends.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import msgspec

from swarm.config.settings import Settings
from swarm.errors import SwarmError
from swarm.filesystem.entries import list_names
from swarm.http.background import beside
from swarm.http.parts import HttpParts
from swarm.queue.batches.api_batches import ApiBatches
from swarm.queue.file_queue import FileQueue

NAME = "http-batches"
"""Of its log."""
LOCK = f".{NAME}"
"""Of its process lock. Hidden: it belongs to the HTTP server and ends with it, nobody else looks after it."""
TICK_S = 0.5
IDLE_S = 30.0
LEAST_S = 0.05
_BACKOFF_S = (1.0, 30.0)
_END_S = 5.0


class DriverProcess:
    """Starts the driver once there is something to do, and starts it again when it dies."""

    def __init__(self, parts: HttpParts) -> None:
        self._parts = parts
        self._needed = asyncio.Event()
        self._process: asyncio.subprocess.Process | None = None

    def need(self) -> None:
        """There is something to do: call it once a batch or file is on disk."""
        self._needed.set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """For ``HttpParts.background``."""
        queue = self._parts.queue
        if ApiBatches(queue.layout, queue.storage).open_names() or list_names(queue.layout.files):
            self.need()
        try:
            async with beside(self._keep()):
                yield
        finally:
            await self._end()

    async def _keep(self) -> None:
        await self._needed.wait()
        wait_s = _BACKOFF_S[0]
        while True:
            began_s = time.monotonic()
            code: object
            try:
                code = await (await self._start()).wait()
            except OSError as error:  # no memory, no descriptor, no process
                code = error
            if time.monotonic() - began_s > _BACKOFF_S[1]:
                wait_s = _BACKOFF_S[0]
            self._parts.log.warning("the batch driver has ended (%s); it is started again in %.0f s", code, wait_s)
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, _BACKOFF_S[1])

    async def _start(self) -> asyncio.subprocess.Process:
        settings = self._parts.settings
        # -P: modules are not looked for in the current directory, where others may have put some.
        argv = (sys.executable, "-P", "-m", __name__, "--root", settings.queue.root)
        self._process = await asyncio.create_subprocess_exec(*argv, stdin=asyncio.subprocess.PIPE)
        assert self._process.stdin is not None
        self._process.stdin.write(msgspec.json.encode(settings) + b"\n")
        with suppress(ConnectionError):  # it is dead already: its end is seen by who waits for it
            await self._process.stdin.drain()
        return self._process

    async def _end(self) -> None:
        process = self._process
        if process is None or process.returncode is not None:
            return
        assert process.stdin is not None
        process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), _END_S)
        except TimeoutError:
            process.kill()
            await process.wait()


def main() -> int:
    """Drive the batches of one root until standard input ends."""
    from swarm.http.batches.driver import BatchDriver  # noqa: PLC0415  (the HTTP server needs none of it)
    from swarm.http.batches.file_sweeper import FileSweeper  # noqa: PLC0415
    from swarm.runtime.bootstrap import RunOptions, logging_as, process_lock  # noqa: PLC0415
    from swarm.runtime.loop import RootGuard  # noqa: PLC0415

    settings = msgspec.json.decode(sys.stdin.buffer.readline(), type=Settings)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    queue = FileQueue(settings.queue.root, settings.queue.durability)
    lock = process_lock(queue.layout, LOCK)
    lock.acquire(IDLE_S)
    guard = RootGuard(queue.layout.root)
    with logging_as(NAME, RunOptions(settings=settings)) as log:
        driver, sweeper, wakeup = BatchDriver(settings, queue, log), FileSweeper(settings, queue, log), queue.wakeup()
        while not (why := guard.trouble()):
            busy = False
            try:
                busy = driver.tick()
                sweeper.sweep()
            except (SwarmError, OSError) as trouble:
                log.warning("%s; trying again", trouble)
            time.sleep(0.0 if busy else LEAST_S)
            wakeup.wait(0.0 if busy else TICK_S if driver.has_open else IDLE_S)
        log.error("%s", why)
    return 1


def _end_with_parent() -> None:
    with suppress(OSError):
        while os.read(sys.stdin.fileno(), 4096):
            pass
    os._exit(0)  # whatever it does now may be cut off anywhere


if __name__ == "__main__":
    sys.exit(main())
