"""uvicorn's server with our signals, heartbeat and end.

* The first SIGTERM, SIGINT or SIGHUP: no new connection is taken, streams of events end (``ending``), requests that run get
  the grace of ``[http] stop_grace_s``. The second one cuts them.
* It beats only while it serves: who sees a heartbeat of this life knows that it got that far.
* When another directory lies where the queue root was, it ends at once.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from types import FrameType

import uvicorn

from swarm.core.worker import WorkerStatus
from swarm.errors import StorageFault
from swarm.runtime.logging import LogOnce
from swarm.runtime.loop import EXIT_CRASHED

PERIOD_S = 1.0
"""Between two heartbeats, and looks at the root."""
STALLED_MS = 60_000
"""A connection whose client takes nothing of what was sent for so long is cut by the kernel."""


class HttpServer(uvicorn.Server):
    """One life of the HTTP server's process. ``run_to_end`` once."""

    def __init__(
        self,
        config: uvicorn.Config,
        *,
        ending: asyncio.Event,
        beat: Callable[[int, WorkerStatus], None],
        root_trouble: Callable[[], str],
        log: logging.Logger,
    ) -> None:
        """``beat(turn, status)`` writes a heartbeat. ``root_trouble``: why the root is no longer the directory it was."""
        super().__init__(config)
        self.lost = False
        """Another directory lies where the queue root was."""
        self._ending = ending
        self._beat = beat
        self._root_trouble = root_trouble
        self._log = log
        self._troubles = LogOnce(log)
        self._pulse: asyncio.Task[None] | None = None
        self._cut = 0

    def run_to_end(self, sockets: list[socket.socket]) -> int:
        """Serve on these until asked to end; returns the exit status, ``EXIT_CRASHED`` when it could not begin."""
        log = self._log
        try:
            self.run(sockets)
        except SystemExit:
            log.critical("HTTP server could not start")  # uvicorn has said why
            return EXIT_CRASHED
        except Exception as error:
            log.exception("HTTP server crashed: %s", type(error).__name__)
            return EXIT_CRASHED
        log.info("HTTP server shutting down - %d requests answered", self.server_state.total_requests)
        return 0

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """A handler of signals. A bound method of this object: ``sse_starlette`` finds the server by it."""
        self.force_exit = self.should_exit
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to serve, and to beat."""
        await super().startup(sockets)
        self._pulse = asyncio.create_task(self._beats())

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End what runs within the grace."""
        grace_s = 0 if self.force_exit else self.config.timeout_graceful_shutdown or 0
        self._log.info("HTTP server ends: %d requests run, at most %d s", len(self.server_state.tasks), grace_s)
        # From here on uvicorn would report each request that is cut with the traceback of its cancellation.
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
        self._ending.set()
        late = asyncio.get_running_loop().call_later(grace_s, self._note_cut)  # uvicorn's own patience begins after this
        await super().shutdown(sockets)
        late.cancel()
        self._note_cut()

    def _note_cut(self) -> None:
        cut = len(self.server_state.tasks)
        if cut and not self._cut:
            self._cut = cut
            self._log.warning("HTTP server cuts %d requests", cut)

    async def _beats(self) -> None:
        turn = 0
        while True:
            turn += 1
            why = await asyncio.to_thread(self._root_trouble)
            if why:
                self._log.error("HTTP server ends: %s", why)
                self.lost = self.should_exit = self.force_exit = True
                return
            status = WorkerStatus.DRAINING if self.should_exit else WorkerStatus.IDLE
            try:
                await asyncio.to_thread(self._beat, turn, status)
            except (StorageFault, OSError) as fault:
                self._troubles.failing("beat", f"HTTP server cannot write its heartbeat: {fault}", logging.ERROR)
            else:
                self._troubles.working("beat", "HTTP server can write its heartbeat again")
            await asyncio.sleep(PERIOD_S)
