"""What a relay adds to a request: the same one to a simulated server here and to one behind a relay, in turns in one run.

Both are asked as a worker asks them (``OllamaClient``, ``RemoteServer``), on one event loop. All of it shares this machine;
no network lies between.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
from benchmarks.http_clients import quantile_ms
from benchmarks.throughput_live import CONTEXT, MODEL, simulated_server, until

from swarm.core.faults import TaskFault
from swarm.core.models.model_server import Limits, LoadOrder
from swarm.engines.ollama.client import OllamaClient
from swarm.engines.remote.relay_address import RelayAddress, holder_of
from swarm.engines.remote.relay_calls import RelayCalls
from swarm.engines.remote.remote_server import RemoteServer
from tests.helpers.relay import RunningRelay

REQUEST_S = 0.1
MOST_PER_S = 20.0
"""Requests: the more at once, the longer one takes, so that no queue for processors is measured."""
ROUNDS = 10
LIMITS = Limits(total_s=120.0, first_token_s=120.0)
ORDER = LoadOrder(model=MODEL)


def measure(slots: tuple[int, ...], requests: int) -> dict[str, Any]:
    """By number of requests at once: milliseconds and ratios of the relay's way to the local one."""
    return {str(number): _measured(number, requests) for number in slots}


def _measured(slots: int, requests: int) -> dict[str, Any]:
    request_s = max(REQUEST_S, slots / MOST_PER_S)
    env = CONTEXT | {"OLLAMA_NUM_PARALLEL": str(slots), "OLLAMA_MAX_QUEUE": "4096"}
    with (
        tempfile.TemporaryDirectory(prefix="swarm-bench-") as folder,
        simulated_server("ollama", env=env, request_s=request_s, load_s=0.1, runner="none") as url,
    ):
        config = f"[llm]\nslots = {slots}\n[sim]\nrequest_s = {request_s}\nload_s = 0.1\n"
        relay = RunningRelay(Path(folder) / "relay", "--node", "box2", config=config, env=env)
        try:
            return asyncio.run(_compared(url, relay, slots, max(2, requests // ROUNDS // slots), request_s))
        finally:
            relay.destroy()


async def _compared(url: str, relay: RunningRelay, slots: int, each: int, request_s: float) -> dict[str, Any]:
    address = RelayAddress(
        url=f"{relay.ready.url}/cards/gpu0", token=relay.token, holder=holder_of(Path(tempfile.gettempdir()))
    )
    ways = {"local": OllamaClient(url), "relay": RemoteServer(RelayCalls(address))}
    relay_process, own = psutil.Process(relay.process.pid), psutil.Process()
    took: dict[str, list[float]] = {way: [] for way in ways}
    cpu_s = {way: {"near": 0.0, "relay": 0.0} for way in ways}
    for server in ways.values():
        await asyncio.to_thread(until, lambda server=server: _answers(server), "both servers")
        await asyncio.to_thread(server.load, ORDER)
    for number in range(ROUNDS + 1):
        for way, server in ways.items():
            before = _cpu_s(own), _cpu_s(relay_process)
            found = await asyncio.gather(*(_asks(server, each, request_s) for _ in range(slots)))
            if number:  # the first round opens connections
                took[way] += [s for one in found for s in one]
                cpu_s[way]["near"] += _cpu_s(own) - before[0]
                cpu_s[way]["relay"] += _cpu_s(relay_process) - before[1]
    for server in ways.values():
        await server.close_work()
        server.close()
    done = len(took["local"])
    return {
        "requests": done,
        "request_s": request_s,
        **{way: {"p50": quantile_ms(all_s, 0.5), "p99": quantile_ms(all_s, 0.99)} for way, all_s in took.items()},
        "extra_p50_ms": round(1000 * (statistics.median(took["relay"]) - statistics.median(took["local"])), 2),
        "extra_p99_ms": round(quantile_ms(took["relay"], 0.99) - quantile_ms(took["local"], 0.99), 2),
        "ratio_p50": round(statistics.median(took["relay"]) / statistics.median(took["local"]), 4),
        "cpu_ms_per_request": {
            "near, local": round(1000 * cpu_s["local"]["near"] / done, 2),
            "near, relay": round(1000 * cpu_s["relay"]["near"] / done, 2),
            "the relay": round(1000 * cpu_s["relay"]["relay"] / done, 2),
        },
    }


def _answers(server: OllamaClient | RemoteServer) -> bool:
    try:
        server.ps()
    except TaskFault:
        return False
    return True


async def _asks(server: OllamaClient | RemoteServer, each: int, request_s: float) -> list[float]:
    """One after the other; begun at some moment, so that not all end at once."""
    await asyncio.sleep(random.uniform(0, request_s))
    took = []
    for number in range(each):
        body = {"model": MODEL, "messages": [{"role": "user", "content": f"question {number}"}]}
        began_s = time.perf_counter()
        await server.run("/api/chat", body, limits=LIMITS, progress=_nothing)
        took.append(time.perf_counter() - began_s)
    return took


def _nothing(_tokens: int) -> None:
    """As a worker watches the progress of its requests."""


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)
