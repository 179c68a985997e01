"""A simulated model server as a real process, reaped however the test ends."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.helpers.blocking import BlockingClient
from tests.helpers.wait import wait_until

REPOSITORY = Path(__file__).parents[2]
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def _environment(knobs: dict[str, Any]) -> dict[str, str]:
    return {f"SWARM_SIM_{k.upper()}": ",".join(v) if isinstance(v, (tuple, list)) else str(v) for k, v in knobs.items()}


class SimServer:
    """``with SimServer(load_s=0.1, env={"OLLAMA_NUM_PARALLEL": "4"}) as sim: sim.client.version()``

    Knobs are keyword arguments (see ``swarm.simulator.knobs``). ``wait=False`` returns before HTTP is answered.
    ``SimServer("llama-server", "-m", FILE)`` and ``SimServer("openai", MODEL)`` are the other faces, with their own flags.
    """

    def __init__(
        self,
        engine: str = "ollama",
        *flags: str,
        env: dict[str, str] | None = None,
        port: int = 0,
        wait: bool = True,
        **knobs: Any,
    ) -> None:
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("SWARM_SIM_", "OLLAMA_", "CUDA_"))}
        settings = {"load_s": 0.05, "start_delay_s": 0.0, "request_s": 0.02} | knobs
        self._env = inherited | _environment(settings) | {"PYTHONPATH": str(REPOSITORY)} | (env or {})
        self._argv = [sys.executable, "-m", "swarm.simulator", "--engine", engine, *flags]
        self._engine = engine
        self._wait = wait
        self._directory = tempfile.TemporaryDirectory(prefix="sim-")
        self._log = Path(self._directory.name) / "log"
        self._client: BlockingClient | None = None
        self.process: subprocess.Popen[bytes] | None = None
        self._groups: list[int] = []
        self.port = port

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def client(self) -> BlockingClient:
        """One client, made when first asked for."""
        if self._client is None:
            self._client = BlockingClient(self.url)
        return self._client

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def start(self) -> Self:
        """Start it (again, on the same port, after ``kill``)."""
        with open(self._log, "wb") as log:
            self.process = subprocess.Popen(
                [*self._argv, *self._address()],
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._groups.append(self.process.pid)
        try:
            self.port = wait_until(self._told_port, what="the simulated server to listen")
            if self._wait:
                wait_until(self._serves, what="the simulated server to serve")
        except BaseException:
            self.stop()
            raise
        return self

    def _address(self) -> list[str]:
        if self._engine == "ollama":
            return ["--host", f"127.0.0.1:{self.port}"]
        return ["--host", "127.0.0.1", "--port", str(self.port)]

    def _serves(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, f"the simulated server ended at its start: {self.log()}"
        if self._engine == "ollama":
            return bool(self.state())
        try:
            return self.ask("/health")[0] == 200
        except OSError:
            return False

    def _told_port(self) -> int | None:
        assert self.process is not None
        ended = self.process.poll() is not None  # what comes to nothing may have ended since it listened
        log = self.log()
        found = re.search(r"^Listening on \S+:(\d+)", log, re.MULTILINE)
        assert found or not ended, f"the simulated server ended at its start: {log}"
        return int(found.group(1)) if found else None

    def log(self) -> str:
        """All it has written."""
        return self._log.read_text()

    def state(self) -> dict[str, Any]:
        """``GET /sim/state``."""
        return self._simulation("/sim/state", None)

    def set(self, **knobs: Any) -> dict[str, Any]:
        """Turn knobs; those not named stay."""
        return self._simulation("/sim/knobs", json.dumps(knobs).encode())

    def _simulation(self, path: str, body: bytes | None) -> dict[str, Any]:
        with _OPENER.open(urllib.request.Request(self.url + path, data=body), timeout=60) as reply:
            return json.load(reply)

    def ask(self, path: str, body: dict[str, Any] | None = None, **headers: str) -> tuple[int, bytes]:
        """Status and body of a plain request; a ``POST`` where there is something to send."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data=data, headers=headers)
        try:
            with _OPENER.open(request, timeout=60) as reply:
                return reply.status, reply.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def runner_pids(self) -> list[int]:
        """Children of loaded models."""
        return [runner["pid"] for runner in self.state()["runners"]]

    def kill(self) -> None:
        """SIGKILL the server alone: its runners stay."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def terminate(self, timeout_s: float = 60.0) -> int:
        """SIGTERM the server; its exit status."""
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(timeout_s)

    def stop(self) -> None:
        """End the server and all that its lives have left in their groups."""
        if self._client is not None:
            self._client.close()
        for group in self._groups:  # of earlier lives too: runners survive a killed server
            with contextlib.suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)
        if self.process is not None:
            self.process.wait()
        self._directory.cleanup()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()


class Cancel:
    """A cancel token that fits the port."""

    def __init__(self) -> None:
        self.reason: str | None = None
        self._callbacks: list[Any] = []

    def on_cancel(self, callback: Any) -> None:
        if self.reason:
            callback()
        else:
            self._callbacks.append(callback)

    def fire(self, reason: str = "cancelled") -> None:
        self.reason = reason
        for callback in self._callbacks:
            callback()
