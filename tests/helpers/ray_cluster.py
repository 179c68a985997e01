"""A Ray cluster of real raylets on this machine, each a node of its own that can be frozen, cut short and ended.

* A node is one session of processes (``ray start --block`` and all that Ray starts there), plus what carries its marker in
  its environment: the programs that actors started. ``RayNode.kill`` ends both, as a power cut would.
* Nothing is shared with other clusters of this machine: ports are free ones, files lie in a folder of its own.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Self

from swarm.proc.env_markers import find_marked
from swarm.proc.identity import all_pids, read_stat
from swarm.proc.ports import free_port
from tests.helpers.wait import wait_until

NODE_MARKER = "RAY_TEST_NODE"
START_S = 120.0
"""How long a raylet may take on a machine that does much else."""
QUICK_HEALTH = {
    "RAY_health_check_initial_delay_ms": "2000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "3000",
    "RAY_health_check_failure_threshold": "4",
}
"""Environment of a head that calls a node dead 16 s after it froze, not after 65 s."""
_SMALL = (
    "--num-cpus=1",
    "--num-gpus=0",
    "--object-store-memory=80000000",
    "--disable-usage-stats",
    "--include-log-monitor=false",
    "--min-worker-port=0",  # whatever is free, not the same eight thousand for each
    "--max-worker-port=0",
    "--dashboard-agent-listen-port=0",
)


def has_ray() -> bool:
    """Whether Ray is installed here."""
    return find_spec("ray") is not None


def session_pids(session: int) -> Iterator[int]:
    """Living processes of a session."""
    for pid in all_pids():
        stat = read_stat(pid)
        try:
            if stat is not None and stat.alive and os.getsid(pid) == session:
                yield pid
        except ProcessLookupError:
            continue


class RayNode:
    """One raylet and what belongs to it; running once made."""

    def __init__(self, name: str, words: list[str], folder: Path, env: dict[str, str]) -> None:
        self.name = name
        self.marker = f"{folder.name}-{name}"
        self._out = folder / f"{name}.out"
        argv = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", f"--node-name={name}", *words]
        with self._out.open("wb") as out:
            self._process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
                env={**env, "RAY_USAGE_STATS_ENABLED": "0", NODE_MARKER: self.marker},
            )

    def wait_started(self) -> None:
        """Until Ray says that it runs."""

        def started() -> bool:
            said = self._out.read_text(errors="replace")
            assert self._process.poll() is None, f"ray start of {self.name} ended: {said[-2000:]}"
            return "Ray runtime started" in said

        wait_until(started, timeout_s=START_S, what=f"start of Ray node {self.name}", poll_s=0.1)

    @property
    def pids(self) -> frozenset[int]:
        """All its living processes: Ray's, actors, and what actors started."""
        marked = {one.pid for one in find_marked(**{NODE_MARKER: self.marker})}
        return frozenset(session_pids(self._process.pid)) | marked

    @property
    def swarm_pids(self) -> frozenset[int]:
        """Those of swarm among them: actors, relays, model servers and their guards."""
        words = (b"CardActor", b"--relay", b"relay_guard", b"swarm.simulator")
        return frozenset(pid for pid in self.pids if any(word in _command_line(pid) for word in words))

    @property
    def actors(self) -> frozenset[int]:
        """Processes of our actors."""
        return frozenset(pid for pid in self.pids if b"CardActor" in _command_line(pid))

    @property
    def raylet(self) -> int:
        """Process number of the raylet itself; fails when it has ended."""
        return next(pid for pid in session_pids(self._process.pid) if Path(f"/proc/{pid}/comm").read_text() == "raylet\n")

    def freeze(self) -> tuple[int, ...]:
        """Stop all its processes, as a machine that hangs; returns them, for ``thaw``."""
        stopped = tuple(self.pids)
        _signal(stopped, signal.SIGSTOP)
        return stopped

    def thaw(self, stopped: tuple[int, ...]) -> None:
        """Have those go on."""
        _signal(stopped, signal.SIGCONT)

    def kill_raylet(self) -> None:
        """SIGKILL to the raylet alone; ``ray start --block`` then ends the rest of Ray's processes there."""
        os.kill(self.raylet, signal.SIGKILL)

    def kill(self) -> None:
        """SIGKILL to all its processes until none is left."""

        def gone() -> bool:
            _signal(left := tuple(self.pids), signal.SIGKILL)
            return not left

        wait_until(gone, timeout_s=30.0, what=f"end of Ray node {self.name}", poll_s=0.02)
        self._process.wait()


class RayCluster:
    """A head and its nodes; a context that ends them all."""

    def __init__(self, *, cards: int = 2, env: dict[str, str] | None = None, port: int | None = None) -> None:
        """Start the head, a node ``n1`` of ``cards`` simulated cards itself. ``env``: of all Ray processes."""
        self.folder = Path(tempfile.mkdtemp(prefix="ray", dir="/tmp"))  # short: the sockets' paths may have 107 bytes
        self.port = free_port() if port is None else port
        self.nodes: dict[str, RayNode] = {}
        self._ips: dict[str, str] = {}
        self._lock = threading.Lock()
        self._env = {**os.environ, **(env or {})}
        try:
            self._start_head(cards)
        except BaseException:
            self.close()
            raise

    @property
    def address(self) -> str:
        """``HOST:PORT`` of the head."""
        return f"127.0.0.1:{self.port}"

    def add(self, name: str, cards: int = 2, **env: str) -> RayNode:
        """A further node, up when this returns; threads may add several. Its address in 127.0.0.0/8 is its name's own."""
        with self._lock:
            ip = self._ips.setdefault(name, f"127.0.0.{len(self._ips) + 2}")
        return self._add(name, cards, [f"--address={self.address}", f"--node-ip-address={ip}"], **env)

    def restart_head(self, cards: int = 2) -> None:
        """End the head with its node, and start another at the same address: a cluster that knows nothing."""
        self.nodes.pop("n1").kill()
        # Ray takes the other raylets of this machine for a head that runs.
        (self.folder / "ray_current_cluster").unlink(missing_ok=True)
        self._start_head(cards)

    def _start_head(self, cards: int) -> None:
        self._add("n1", cards, ["--head", f"--port={self.port}", f"--temp-dir={self.folder}", "--include-dashboard=false"])

    def _add(self, name: str, cards: int, words: list[str], **env: str) -> RayNode:
        own = [f"--resources={json.dumps({'swarm_card': cards})}"] if cards else []
        node = RayNode(name, [*words, *own, *_SMALL], self.folder, {**self._env, **env})
        self.nodes[name] = node
        try:
            node.wait_started()
        except BaseException:
            node.kill()
            raise
        return node

    def close(self) -> None:
        """End all of it."""
        for node in reversed(self.nodes.values()):
            node.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()


def _command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ")
    except (FileNotFoundError, ProcessLookupError):
        return b""


def _signal(pids: tuple[int, ...], number: int) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue
