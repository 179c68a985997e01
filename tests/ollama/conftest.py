"""A real Ollama server on the loopback with a tiny model, where a binary is found; else its tests are skipped, and say so.

``SWARM_TEST_OLLAMA`` names the binary (default: ``ollama`` on the PATH), ``SWARM_TEST_OLLAMA_MODEL_GGUF`` a model to import
instead of the one with random weights.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.helpers.blocking import BlockingClient
from tests.helpers.simserver import SimServer
from tests.helpers.tinygguf import write_tiny_gguf
from tests.helpers.wait import runs, wait_until

BINARY_VARIABLE = "SWARM_TEST_OLLAMA"
GGUF_VARIABLE = "SWARM_TEST_OLLAMA_MODEL_GGUF"
MODEL = "tiny"
START_S = 60.0


class Speaker:
    """Raw HTTP to one server, real or simulated."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}"

    def ask(
        self, method: str, path: str, body: Any = None, *, headers: dict[str, str] | None = None, timeout_s: float = 60.0
    ) -> tuple[int, dict[str, str], bytes]:
        """One exchange: status, headers by lower-case name, body. ``body`` is sent as JSON unless it is bytes."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout_s)
        try:
            data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
            connection.request(method, path, body=data, headers=headers or {})
            reply = connection.getresponse()
            return reply.status, {k.lower(): v for k, v in reply.getheaders()}, reply.read()
        finally:
            connection.close()

    def json(self, method: str, path: str, body: Any = None) -> Any:
        """The JSON of an answer that must be a 200."""
        status, _, raw = self.ask(method, path, body)
        assert status == 200, raw
        return json.loads(raw)

    def ps(self) -> list[dict[str, Any]]:
        """The models in memory."""
        return self.json("GET", "/api/ps")["models"]

    def runners(self) -> list[int]:
        """The server's children that hold models."""
        pids = (runner["pid"] for runner in self.json("GET", "/sim/state")["runners"])
        return [pid for pid in pids if runs(pid)]


class RealServer(Speaker):
    """``ollama serve`` in a session of its own, with its own home, on the CPU."""

    def __init__(self, binary: str, home: Path, models: Path) -> None:
        super().__init__(free_port())
        home.mkdir(exist_ok=True)
        self._log = home / "log"
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("OLLAMA_", "CUDA_"))}
        self._env = kept | {
            "HOME": str(home),
            "OLLAMA_HOST": f"127.0.0.1:{self.port}",
            "OLLAMA_MODELS": str(models),
            "OLLAMA_NO_CLOUD": "1",
            "OLLAMA_NOPRUNE": "1",
            "CUDA_VISIBLE_DEVICES": "-1",
        }
        with open(self._log, "wb") as log:
            self._process = subprocess.Popen(
                [binary, "serve"], env=self._env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        try:
            wait_until(self._answers, timeout_s=START_S, what="the real server to answer")
        except BaseException:
            self.stop()
            raise

    def _answers(self) -> bool:
        assert self._process.poll() is None, self._log.read_text()[-2000:]
        try:
            return self.ask("GET", "/api/version", timeout_s=5)[0] == 200
        except OSError:
            return False

    def create(self, name: str, gguf: Path) -> None:
        """Import a model: its file as a blob, then a manifest that names it."""
        raw = gguf.read_bytes()
        digest = f"sha256:{hashlib.sha256(raw).hexdigest()}"
        status, _, answer = self.ask("POST", f"/api/blobs/{digest}", raw)
        assert status in (200, 201), answer
        status, _, answer = self.ask("POST", "/api/create", {"model": name, "files": {gguf.name: digest}})
        assert status == 200, answer
        assert b'"success"' in answer, answer

    def runners(self) -> list[int]:
        """The server's children that hold models."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                    words = (entry / "cmdline").read_bytes().split(b"\0")
                    if parent == self._process.pid and b"--model" in words:
                        found.append(int(entry.name))
        return found

    def stop(self) -> None:
        """End it and all it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


def free_port() -> int:
    """A loopback port that nobody had a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


@pytest.fixture(scope="session")
def binary() -> str:
    named = os.environ.get(BINARY_VARIABLE)
    found = shutil.which(named or "ollama")
    if found is None:
        where = f"{BINARY_VARIABLE}={named}" if named else "the PATH"
        pytest.skip(f"no real Ollama: {where} has no such program; set {BINARY_VARIABLE} to an ollama binary to run this")
    return found


@pytest.fixture(scope="session")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    named = os.environ.get(GGUF_VARIABLE)
    return Path(named) if named else write_tiny_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


@pytest.fixture(scope="session")
def models_dir(binary: str, gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models directory in which the tiny model lies, imported through the API."""
    directory = tmp_path_factory.mktemp("ollama")
    server = RealServer(binary, directory / "home", directory / "models")
    try:
        server.create(MODEL, gguf)
    finally:
        server.stop()
    return directory / "models"


@pytest.fixture(scope="module")
def real(binary: str, models_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealServer]:
    """One real server for a module."""
    server = RealServer(binary, tmp_path_factory.mktemp("real") / "home", models_dir)
    yield server
    server.stop()


@pytest.fixture(scope="module")
def simulated() -> Iterator[Speaker]:
    """One simulated server for a module, on the CPU like the real one."""
    with SimServer(models=(MODEL,), load_s=0.1, request_s=0.02, env={"CUDA_VISIBLE_DEVICES": "-1"}) as sim:
        yield Speaker(sim.port)


@pytest.fixture(scope="module", params=["simulated", pytest.param("real", marks=pytest.mark.ollama)])
def speaker(request: pytest.FixtureRequest) -> Speaker:
    """The same test against both: where they differ, the simulated one is wrong."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def client(speaker: Speaker) -> Iterator[BlockingClient]:
    with BlockingClient(speaker.url) as made:
        yield made


def lines_of(raw: bytes) -> list[dict[str, Any]]:
    """The objects of a streamed answer."""
    return [msgspec.json.decode(line) for line in raw.splitlines() if line.strip()]
