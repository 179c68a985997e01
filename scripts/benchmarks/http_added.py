"""What the HTTP server adds to a request: the same one directly and through swarm, in turns within one run.

The more clients, the longer a request takes, so that as many a second come: no queue for processors is measured.
"""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import Sequence
from typing import Any

import aiohttp
import psutil
from benchmarks.http_clients import Took, chat, connected, quantile_ms
from benchmarks.throughput_live import CONTEXT, adopted, asked, simulated_server, swarm, until

from swarm.proc.ports import free_port
from swarm.queue.stores import registry

REQUEST_S = 0.05
MOST_PER_S = 60.0
ROUNDS = 8
WAYS = {"direct": "/api/chat", "ollama": "/api/chat", "openai": "/v1/chat/completions"}
"""The first goes to the server, the others through swarm."""


async def measure(clients: Sequence[int], requests: int) -> dict[str, Any]:
    """By number of clients: p50 and p99 of each way, and how much more than the direct way they are."""
    most = max(clients)
    port = free_port()
    live = f"[http]\nport = {port}\n[live]\nshare = 1.0\nqueue_max = 4096\n"
    env = CONTEXT | {"OLLAMA_NUM_PARALLEL": str(most), "OLLAMA_MAX_QUEUE": "4096"}
    with (
        simulated_server("ollama", env=env, request_s=REQUEST_S, load_s=0.2, vram_mib=200_000) as direct,
        swarm(adopted(direct, slots=most) + live) as queue,
    ):
        through = f"http://127.0.0.1:{port}"
        urls = {way: direct if way == "direct" else through for way in WAYS}
        until(lambda: healthy(through), "the HTTP server")
        rows = {name: until(lambda name=name: registry.read_row(queue.layout, name), name) for name in ("http", "one")}
        processes = {name: psutil.Process(row.process.pid) for name, row in rows.items()}
        async with connected() as session:
            for way, path in WAYS.items():
                await chat(session, urls[way], path, "warm")
            return {str(number): await _compared(session, urls, processes, number, requests) for number in clients}


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def healthy(url: str) -> bool:
    """Whether the HTTP server answers."""
    try:
        return bool(asked(url, "/healthz", timeout_s=5)["status"] == "ok")
    except OSError:
        return False


async def _compared(
    session: aiohttp.ClientSession,
    urls: dict[str, str],
    processes: dict[str, psutil.Process],
    clients: int,
    requests: int,
) -> dict[str, Any]:
    cpu_s = {way: dict.fromkeys(processes, 0.0) for way in WAYS}
    took: dict[str, list[Took]] = {way: [] for way in WAYS}
    each = max(4, requests // ROUNDS // -(-clients // 4))
    request_s = max(REQUEST_S, clients / MOST_PER_S)
    asked(urls["direct"], "/sim/knobs", {"request_s": request_s})
    for number in range(ROUNDS):
        for way, path in WAYS.items():

            async def one(client: int, url: str = urls[way], path: str = path) -> list[Took]:
                await asyncio.sleep(random.uniform(0, request_s))
                return [await chat(session, url, path, f"question {client} {n}") for n in range(each)]

            before_s = {name: _cpu_s(process) for name, process in processes.items()}
            for found in await asyncio.gather(*(one(client) for client in range(clients))):
                took[way] += found
            for name, process in processes.items():
                cpu_s[way][name] += _cpu_s(process) - before_s[name]
        print(f"  {clients} clients: {number + 1} of {ROUNDS} rounds", file=sys.stderr, flush=True)
    figures: dict[str, Any] = {"requests_each_way": len(took["direct"]), "request_s": round(request_s, 3)}
    # What the worker does for nobody in the same time is in both.
    figures["cpu_ms_each"] = {
        way: {
            {"http": "http", "one": "worker"}[name]: round(1000 * spent_s / len(took[way]), 2)
            for name, spent_s in spent.items()
        }
        for way, spent in cpu_s.items()
    }
    for what in ("first_token_s", "whole_s"):
        by_way = {
            way: {f"p{share}": quantile_ms([getattr(one, what) for one in values], share / 100) for share in (50, 99)}
            for way, values in took.items()
        }
        direct = by_way["direct"]
        added = {way: {p: round(by_way[way][p] - direct[p], 2) for p in direct} for way in WAYS if way != "direct"}
        figures[what.removesuffix("_s") + "_ms"] = by_way | {"added": added}
    return figures
