"""What the way through a relay adds to a request: the same one to the same simulated server, straight and through its relay.

    python scripts/benchmarks/relay_hop.py [--slots 16] [--requests 1600]

A relay with one simulated card. ``--slots`` clients, in turns straight and through the relay, as a worker asks either way,
at random moments, so that no queue for processors is measured. Prints milliseconds at the median and the 99th percentile,
what the relay adds, and the processor time of a request on either side.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import psutil

HERE = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(HERE), str(HERE / "scripts")]

from swarm.core.faults import TaskFault  # noqa: E402
from swarm.core.models.model_server import Limits, LoadOrder  # noqa: E402
from swarm.core.nodes.relay_wire import RelayReady  # noqa: E402
from swarm.engines.ollama.client import OllamaClient  # noqa: E402
from swarm.engines.ollama.server import ServerNote  # noqa: E402
from swarm.engines.remote.relay_address import RelayAddress, holder_of  # noqa: E402
from swarm.engines.remote.relay_calls import RelayCalls  # noqa: E402
from swarm.engines.remote.remote_server import RemoteServer  # noqa: E402

MODEL = "llama3.2:3b"
CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "hello"}]}
LIMITS = Limits(total_s=120)
REQUEST_S = 0.25
ROUNDS = 8
CONFIG = """
[llm]
slots = {slots}
[sim]
load_s = 0.05
request_s = {request_s}
"""
Server = OllamaClient | RemoteServer


async def measure(slots: int, requests: int, request_s: float = REQUEST_S) -> dict[str, Any]:
    """Of both ways; what the relay adds is the difference of their quantiles."""
    with (
        tempfile.TemporaryDirectory(prefix="hop-") as folder,
        _relay(Path(folder), slots, request_s) as (ready, process),
    ):
        token = Path(ready.token_file).read_text().strip()
        calls = RelayCalls(RelayAddress(url=ready.cards[0], token=token, holder=holder_of(Path(folder))))
        ways: dict[str, Server] = {"relay": RemoteServer(calls)}
        try:
            await asyncio.to_thread(_load, ways["relay"], slots)
            note = msgspec.json.decode((Path(folder) / "root/workers/gpu0.server.json").read_bytes(), type=ServerNote)
            ways["straight"] = OllamaClient(note.url)
            return await _compared(ways, psutil.Process(process.pid), slots, requests, request_s)
        finally:
            for server in ways.values():
                server.close()
                await server.close_work()


async def _compared(
    ways: dict[str, Server], relay: psutil.Process, slots: int, requests: int, request_s: float
) -> dict[str, Any]:
    took: dict[str, list[float]] = {way: [] for way in ways}
    cpu_s: dict[str, list[float]] = {way: [0.0, 0.0] for way in ways}
    each = max(1, requests // ROUNDS // slots)
    here = psutil.Process()
    for _ in range(ROUNDS):
        for way, server in ways.items():

            async def one(server: Server = server) -> list[float]:
                await asyncio.sleep(random.uniform(0, request_s))
                return [await _asked(server) for _ in range(each)]

            before = [_cpu_s(here), _cpu_s(relay)]
            for found in await asyncio.gather(*(one() for _ in range(slots))):
                took[way] += found
            for side, process in enumerate((here, relay)):
                cpu_s[way][side] += _cpu_s(process) - before[side]
    number = len(took["relay"])
    at = {
        way: {f"p{share}": 1000 * sorted(times)[int(share / 100 * number)] for share in (50, 99)}
        for way, times in took.items()
    }
    spent = {way: {"asking": 1000 * one / number, "relay": 1000 * two / number} for way, (one, two) in cpu_s.items()}
    return {
        "slots": slots,
        "requests_each_way": number,
        **{f"{way}_ms": _rounded(found) for way, found in at.items()},
        "added_ms": _rounded({p: at["relay"][p] - at["straight"][p] for p in at["relay"]}),
        "cpu_ms_each": {way: _rounded(found) for way, found in spent.items()},
    }


async def _asked(server: Server) -> float:
    began_s = time.monotonic()
    reply = await server.run("/api/chat", CHAT, limits=LIMITS, progress=lambda _count: None)
    assert reply.simulated
    return time.monotonic() - began_s


def _load(server: Server, slots: int) -> None:
    deadline_s = time.monotonic() + 60
    while True:
        try:
            server.load(LoadOrder(model=MODEL, slots=slots), timeout_s=60)
        except TaskFault:
            if time.monotonic() > deadline_s:
                raise
            time.sleep(0.2)
        else:
            return


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _rounded(figures: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 2) for name, value in figures.items()}


@contextmanager
def _relay(folder: Path, slots: int, request_s: float) -> Iterator[tuple[RelayReady, subprocess.Popen[bytes]]]:
    config = folder / "c.toml"
    config.write_text(CONFIG.format(slots=slots, request_s=request_s))
    argv = [sys.executable, "-m", "swarm", "serve", "--relay", "--json", "--simulate", "1", "--listen", "127.0.0.1:0"]
    argv += ["--root", str(folder / "root"), "--config", str(config)]
    env = {**os.environ, "SWARM_SIM_RUNNER": "none", "PYTHONPATH": str(HERE)}
    with subprocess.Popen(argv, stdout=subprocess.PIPE, env=env) as process:
        assert process.stdout is not None
        try:
            yield msgspec.json.decode(process.stdout.readline(), type=RelayReady), process
        finally:
            process.terminate()
            process.wait(60)


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slots", type=int, default=16)
    parser.add_argument("--requests", type=int, default=1600)
    args = parser.parse_args()
    print(json.dumps(asyncio.run(measure(args.slots, args.requests)), indent=2))


if __name__ == "__main__":
    main()
