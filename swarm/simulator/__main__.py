"""The process of a simulated server: binds, waits, answers, and ends as the real one ends."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Sequence

from swarm import stdio
from swarm.simulator.app import App
from swarm.simulator.faces import Face, face_of
from swarm.simulator.http import HttpConnection
from swarm.simulator.knobs import Knobs


def main(argv: Sequence[str] | None = None) -> int:
    """Run one simulated server until asked to stop; its exit status.

    0 after a signal, 1 if the port is taken or the model cannot be loaded, 2 for bad arguments.
    """
    try:
        face = face_of(argv, os.environ)
    except ValueError as error:
        _say(f"Error: {error}")
        return 2
    try:
        listener = _bind(face)
    except OSError as error:
        _say(face.not_listening((error.strerror or str(error)).lower()))
        return 1
    _say(face.listening(listener.getsockname()[1]))
    return asyncio.run(serve(face, listener))


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def _bind(face: Face) -> socket.socket:
    family = socket.AF_INET6 if ":" in face.host else socket.AF_INET
    # asyncio turns delays off only on sockets that name their protocol; without it each answer could wait 40 ms.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((face.host, face.port))
    except OSError:
        listener.close()
        raise
    if face.listens_first:
        listener.listen(1024)
    return listener


async def serve(face: Face, listener: socket.socket) -> int:
    """Serve on a bound socket until SIGTERM or SIGINT: then connections are cut and runners killed, at once."""
    loop = asyncio.get_running_loop()
    stopped: asyncio.Future[int] = loop.create_future()

    def stop(status: int = 0) -> None:
        if not stopped.done():
            stopped.set_result(status)

    for number in (signal.SIGTERM, signal.SIGINT):
        # A handler that does nothing, not SIG_IGN: that would be inherited, and make the runners deaf as well.
        loop.add_signal_handler(number, (lambda: None) if face.knobs.ignore_sigterm else stop)
    app = face.app(listener.getsockname()[1], stop)
    try:
        if await _interrupted(stopped, face.knobs):
            return stopped.result()
        loading = loop.create_task(_load(face, app, stopped))
        if not face.listens_first:
            await asyncio.wait((loading, stopped), return_when=asyncio.FIRST_COMPLETED)
        if not stopped.done():
            server = await loop.create_server(lambda: HttpConnection(app.handle), sock=listener, backlog=1024)
            await asyncio.wait((stopped,))
            server.close()
        loading.cancel()
        return stopped.result()
    finally:
        listener.close()
        app.end()


async def _load(face: Face, app: App, stopped: asyncio.Future[int]) -> None:
    if not await face.load(app) and not stopped.done():
        stopped.set_result(1)


async def _interrupted(stopped: asyncio.Future[int], knobs: Knobs) -> bool:
    """The time before HTTP is answered, though TCP is accepted. True if the server was stopped in it."""
    done, _ = await asyncio.wait((stopped,), timeout=None if knobs.never_ready else knobs.start_delay_s)
    return bool(done)


if __name__ == "__main__":
    stdio.prepare()
    sys.exit(main())
