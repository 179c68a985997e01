"""The child process behind a model that a simulated Ollama has loaded."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from swarm.proc.identity import end_of_child

CHILD = Path(__file__).with_name("runner_child.py")


class RunnerProcess:
    """One runner: a child in the server's own group and session, with the server's environment. Not restarted."""

    def __init__(self, process: subprocess.Popen[bytes], on_death: Callable[[], None]) -> None:
        self._process = process
        self._on_death = on_death
        self._loop = asyncio.get_running_loop()
        self._pidfd = end_of_child(process.pid)
        self._loop.add_reader(self._pidfd, self._died)
        self.pid = process.pid
        self.port = 0

    @classmethod
    async def start(cls, model: str, on_death: Callable[[], None]) -> RunnerProcess:
        """Start one and wait for its port. Raises ``OSError``; cancelling kills it."""
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(CHILD), "runner", "--model", model],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        runner = cls(process, on_death)
        try:
            runner.port = int(await runner._first_line() or 0)
        except BaseException:
            runner.kill()
            raise
        return runner

    async def _first_line(self) -> bytes:
        out = self._process.stdout
        assert out is not None
        ready: asyncio.Future[None] = self._loop.create_future()
        self._loop.add_reader(out.fileno(), _set, ready)
        try:
            await ready
        finally:
            self._loop.remove_reader(out.fileno())
        return os.read(out.fileno(), 64)

    def kill(self) -> None:
        """SIGKILL, and wait for its end; ``on_death`` is not called."""
        self._unwatch()
        self._process.kill()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def crash(self) -> None:
        """SIGKILL as from outside: ``on_death`` will be called."""
        os.kill(self.pid, signal.SIGKILL)

    def _died(self) -> None:
        self.kill()
        self._on_death()

    def _unwatch(self) -> None:
        if self._pidfd >= 0:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1


def _set(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)
