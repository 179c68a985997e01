"""The process of a simulated server: binds, waits, answers, and ends as Ollama ends."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Sequence

import msgspec

from swarm import stdio
from swarm.simulator import faults
from swarm.simulator.http import HttpConnection
from swarm.simulator.knobs import Knobs, ServerEnv, parse, read_environment
from swarm.simulator.routes import VERSION, App


def main(argv: Sequence[str] | None = None) -> int:
    """Run one simulated server until asked to stop; its exit status.

    0 after a signal, 1 if the port is taken, 2 for bad arguments.
    """
    knobs, host = parse(argv, os.environ)
    try:
        faults.check(knobs)
        env = read_environment(os.environ, knobs, host)
    except ValueError as error:
        _say(f"Error: {error}")
        return 2
    try:
        listener = _bind(env)
    except OSError as error:
        _say(f"Error: listen tcp {env.host}:{env.port}: bind: {(error.strerror or str(error)).lower()}")
        return 1
    env = msgspec.structs.replace(env, port=listener.getsockname()[1])
    _say(f"Listening on {env.host}:{env.port} (version {VERSION})")
    asyncio.run(serve(knobs, env, listener))
    return 0


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def _bind(env: ServerEnv) -> socket.socket:
    family = socket.AF_INET6 if ":" in env.host else socket.AF_INET
    # asyncio turns delays off only on sockets that name their protocol; without it each answer could wait 40 ms.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((env.host, env.port))
    except OSError:
        listener.close()
        raise
    listener.listen(1024)
    return listener


async def serve(knobs: Knobs, env: ServerEnv, listener: socket.socket) -> None:
    """Serve on a listening socket until SIGTERM or SIGINT: then connections are cut and runners killed, at once."""
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        # A handler that does nothing, not SIG_IGN: that would be inherited, and make the runners deaf as well.
        loop.add_signal_handler(number, (lambda: None) if knobs.ignore_sigterm else stopped.set)
    app = App(knobs, env)
    try:
        if await _interrupted(stopped, knobs):
            return
        server = await loop.create_server(lambda: HttpConnection(app.handle), sock=listener)
        await stopped.wait()
        server.close()
    finally:
        listener.close()
        app.scheduler.kill_all()


async def _interrupted(stopped: asyncio.Event, knobs: Knobs) -> bool:
    """The time before HTTP is answered, though TCP is accepted. True if the server was stopped in it."""
    try:
        await asyncio.wait_for(stopped.wait(), None if knobs.never_ready else knobs.start_delay_s)
    except TimeoutError:
        return False
    return True


if __name__ == "__main__":
    stdio.prepare()
    sys.exit(main())
