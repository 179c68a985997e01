"""What a worker adds to a live request: first piece and whole, through its socket and straight to its (simulated) server.

    python scripts/benchmarks/live_hop.py [--requests 2000]

An idle worker; requests one after the other, straight and through the worker in turn, each on a connection that is kept.
Prints milliseconds at the median and the 99th percentile, and what the worker adds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import aiohttp

HERE = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(HERE))

from swarm.proc.ports import free_port  # noqa: E402

MODEL = "llama3.2:3b"
CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "hello"}]}
CONFIG = """
[llm]
slots = 4
[ollama]
base_port = {port}
[sim]
load_s = 0.05
request_s = 0.005
"""


def swarm(root: Path, *words: str) -> None:
    """Run a command on this root."""
    command = [sys.executable, "-m", "swarm", *words, "--root", str(root / "q"), "--config", str(root / "c.toml")]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=HERE)


async def timed(session: aiohttp.ClientSession, url: str, body: object) -> tuple[float, float]:
    """Milliseconds to the first piece and to the end of one request."""
    began_s = time.perf_counter()
    async with session.post(url, json=body) as reply:
        assert reply.status == 200, await reply.text()
        await reply.content.readline()
        first_s = time.perf_counter()
        rest = await reply.content.read()
    assert b'"done":true' in rest.replace(b" ", b"")
    return (first_s - began_s) * 1000, (time.perf_counter() - began_s) * 1000


async def measure(root: Path, port: int, requests: int) -> dict[str, list[tuple[float, float]]]:
    """Times by the way taken."""
    times: dict[str, list[tuple[float, float]]] = {"straight": [], "worker": []}
    folder_fd = os.open(root / "q" / "live", os.O_PATH)
    way = aiohttp.UnixConnector(f"/proc/self/fd/{folder_fd}/worker-1.sock")
    async with aiohttp.ClientSession() as straight, aiohttp.ClientSession(connector=way) as through:
        for number in range(requests + 50):
            direct = await timed(straight, f"http://127.0.0.1:{port}/api/chat", CHAT)
            asked = {"id": f"r{number}", "endpoint": "/api/chat", "request": CHAT}
            hop = await timed(through, "http://worker/run", asked)
            if number >= 50:
                times["straight"].append(direct)
                times["worker"].append(hop)
    return times


def percentile(values: list[float], share: float) -> float:
    """The value that this share of them does not exceed."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=2000)
    requests = parser.parse_args().requests
    with tempfile.TemporaryDirectory() as folder:
        root, port = Path(folder), free_port()
        (root / "c.toml").write_text(CONFIG.format(port=port))
        (root / "c.toml").chmod(0o600)
        swarm(root, "up", "--detach", "--simulate", "1")
        try:
            swarm(root, "submit", "--prompt", "first", "--model", MODEL, "--wait")
            while not json.loads((root / "q/heartbeats/worker-1.json").read_text()).get("live", {}).get("limit"):
                time.sleep(0.05)
            times = asyncio.run(measure(root, port, requests))
        finally:
            swarm(root, "down", "--now")
    print(f"{requests} requests each way, simulated server, ms")
    for index, what in enumerate(("first piece", "whole")):
        straight, hop = ([one[index] for one in times[way]] for way in ("straight", "worker"))
        added = [b - a for a, b in zip(straight, hop, strict=True)]
        late, late_hop = percentile(straight, 0.99), percentile(hop, 0.99)
        shown = f"straight p50 {median(straight):6.2f} p99 {late:6.2f} | worker p50 {median(hop):6.2f} p99 {late_hop:6.2f}"
        print(f"{what:12} {shown} | added p50 {median(added):5.2f} p99 {late_hop - late:5.2f}")


if __name__ == "__main__":
    main()
