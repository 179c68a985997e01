"""A relay with simulated cards as a process of its own, and what a worker would ask it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from swarm.core.nodes.relay_wire import HOLDER, RelayLine, RelayReady
from swarm.proc.env_markers import ROOT_MARKER, find_marked, kill_marked

HOLDING = "tests host:/queue"


class RunningRelay:
    """``swarm serve --relay`` with these words. It listens on any free port; ``ready`` tells where."""

    def __init__(
        self, root: Path, *words: str, simulate: int | None = 1, config: str = "", on: Sequence[str] = (), **popen: Any
    ) -> None:
        """``on``: words before its command, such as those that enter a namespace."""
        self.root = root
        root.parent.mkdir(parents=True, exist_ok=True)
        path = root.with_name(f"{root.name}.toml")
        path.write_text(config)
        listen = () if "--listen" in words else ("--listen", "127.0.0.1:0")
        argv = [*on, sys.executable, "-m", "swarm", "serve", "--relay", "--json", *listen, *words]
        argv += () if simulate is None else ("--simulate", str(simulate))
        argv += ["--root", str(root), "--config", str(path)]
        self.out = root.with_name(f"{root.name}.err")
        env = {**os.environ, "SWARM_SIM_RUNNER": "none", **popen.pop("env", {})}
        with self.out.open("ab") as errors:
            self.process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=errors, env=env, **popen)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.process.stdout.close()
            raise AssertionError(f"exit status {self.process.wait()}: {self.out.read_text()}")
        self.ready = msgspec.json.decode(line, type=RelayReady)
        self.token = Path(self.ready.token_file).read_text()

    def open(self, method: str, path: str, body: object = None, *, holder: str = HOLDING, **headers: str) -> HTTPResponse:
        """The reply, its body still to be read. ``path`` is below the card ``gpu0`` unless it begins with a slash."""
        parts = urlsplit(self.ready.url)
        connection = HTTPConnection(parts.hostname or "", parts.port or 0, timeout=60)
        known = {"Authorization": f"Bearer {self.token}", HOLDER: holder, "Connection": "close"}
        data = None if body is None else msgspec.json.encode(body)
        connection.request(method, path if path.startswith("/") else f"/cards/gpu0/{path}", data, {**known, **headers})
        return connection.getresponse()

    def ask(self, method: str, path: str, body: object = None, **how: str) -> tuple[int, Any]:
        """Status and answer."""
        reply = self.open(method, path, body, **how)
        return reply.status, json.loads(reply.read())

    def lines(self, path: str, body: object, **how: str) -> Iterator[RelayLine]:
        """The lines of a streamed answer."""
        reply = self.open("POST", path, body, **how)
        assert reply.status == 200, reply.read()
        for line in reply:
            yield msgspec.json.decode(line, type=RelayLine)

    def pids(self) -> set[int]:
        """Of all that runs of this root."""
        return {one.pid for one in find_marked(**{ROOT_MARKER: str(self.root)})}

    def stop(self) -> int:
        """Have it end in order; its exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)

    def destroy(self) -> None:
        """End all of it, whatever state it is in."""
        self.process.kill()
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()
        kill_marked(0.0, **{ROOT_MARKER: str(self.root)})
