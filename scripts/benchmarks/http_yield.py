"""Live requests on cards full of batch work: how much later their first token comes, and what the batch loses."""

from __future__ import annotations

import asyncio
import random
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import aiohttp
from benchmarks.http_added import healthy
from benchmarks.http_clients import Took, chat, connected, quantile_ms
from benchmarks.throughput_live import chat_task, enqueue, swarm, until

from swarm.proc.ports import free_port
from swarm.queue.file_queue import FileQueue

SLOTS = 4
REQUEST_S, LINES = 1.0, 20
STEP_S = REQUEST_S / LINES
LIVE_PER_S = 4.0
STEADY_CLIENTS = 4
KINDS = ("random", "steady")
"""Requests at random moments, ``LIVE_PER_S`` on average; or one after the other from each of some clients."""
SETTLE_S = 3.0
"""Places that live requests gave back go to the batch again within this."""
PATH = "/v1/chat/completions"


async def measure(cards: int, phase_s: float, rounds: int) -> dict[str, Any]:
    """First tokens and batch work, with live requests of both kinds and without, in turns."""
    port = free_port()
    toml = (
        f"[http]\nport = {port}\n[llm]\nslots = {SLOTS}\n[sim]\nrequest_s = {REQUEST_S}\nload_s = 0.2\nstart_delay_s = 0\n"
    )
    url = f"http://127.0.0.1:{port}"
    with swarm(toml, simulate=cards, SWARM_SIM_LINES=str(LINES), SWARM_SIM_RUNNER="none") as queue:
        until(lambda: healthy(url), "the HTTP server")
        async with connected() as session:
            return await _measured(session, url, queue, cards, phase_s, rounds)


async def _measured(
    session: aiohttp.ClientSession, url: str, queue: FileQueue, cards: int, phase_s: float, rounds: int
) -> dict[str, Any]:
    # All cards hold the model, and the batch lasts until the end.
    enqueue(queue, [chat_task(f"warm {n}") for n in range(cards * SLOTS * 2)])
    until(lambda: queue.stats().completed >= cards * SLOTS * 2, "the cards to be warm")
    idle, _ = await _phase(session, url, queue, phase_s / 2, "random")
    most = int(cards * SLOTS / REQUEST_S * (3 * rounds * (phase_s + SETTLE_S) + 60))
    ids = enqueue(queue, [chat_task(f"question {n}") for n in range(most)])
    until(lambda: sum(queue.stats().processing.values()) >= cards * SLOTS, "the cards to be full")
    alone_per_s: list[float] = []
    busy: dict[str, list[Took]] = {kind: [] for kind in KINDS}
    beside_per_s: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for number in range(rounds):
        for kind in ("", *KINDS):
            await asyncio.sleep(SETTLE_S)
            took, per_s = await _phase(session, url, queue, phase_s, kind)
            if kind:
                busy[kind] += took
            (beside_per_s[kind] if kind else alone_per_s).append(per_s)
        print(f"  {number + 1} of {rounds} rounds", file=sys.stderr, flush=True)
    alone = sum(alone_per_s) / rounds
    found: dict[str, Any] = {"idle_first_token_ms": _quantiles(idle), "aim_ms": 50 + 1000 * STEP_S}
    found["batch_alone_per_s"] = round(alone, 2)
    for kind, took in busy.items():
        beside, live_rate = sum(beside_per_s[kind]) / rounds, len(took) / rounds / phase_s
        lost, share = 1 - beside / alone, live_rate / alone
        found[kind] = {
            "live_requests": len(took),
            "first_token_ms": _quantiles(took),
            "extra_p99_ms": round(_quantiles(took)["p99"] - _quantiles(idle)["p99"], 1),
            "batch_per_s": round(beside, 2),
            "by_round": [round(per_s, 2) for per_s in beside_per_s[kind]],
            "batch_lost": round(lost, 4),
            "live_share_of_work": round(share, 4),
            "lost_beyond_live_share": round(lost - share, 4),
        }
    return found | {"attempts": _outcomes(queue, ids)}


def _quantiles(took: Sequence[Took]) -> dict[str, float]:
    """Of the time to the first token, in milliseconds."""
    return {f"p{q}": quantile_ms([one.first_token_s for one in took], q / 100) for q in (50, 99)}


async def _phase(
    session: aiohttp.ClientSession, url: str, queue: FileQueue, seconds: float, kind: str
) -> tuple[list[Took], float]:
    """Requests that began in this time, and batch tasks that ended in it, a second."""
    began_s, before = time.monotonic(), queue.stats().completed
    took: list[Took] = []

    async def ask() -> None:
        took.append(await chat(session, url, PATH, f"live {random.random()}"))

    async def one_after_the_other() -> None:
        while time.monotonic() < began_s + seconds:
            await ask()

    under_way = [asyncio.create_task(one_after_the_other()) for _ in range(STEADY_CLIENTS if kind == "steady" else 0)]
    while (left_s := began_s + seconds - time.monotonic()) > 0:
        pause_s = random.expovariate(LIVE_PER_S) if kind == "random" else left_s
        await asyncio.sleep(min(pause_s, left_s))
        if pause_s < left_s:
            under_way.append(asyncio.create_task(ask()))
    per_s = (queue.stats().completed - before) / (time.monotonic() - began_s)
    await asyncio.gather(*under_way)
    return took, per_s


def _outcomes(queue: FileQueue, ids: Iterable[str]) -> dict[str, int]:
    """How the attempts of these tasks ended; an attempt that yielded leaves no trace."""
    return Counter(attempt["outcome"] for one in ids for attempt in queue.read(one).get("attempts", ()))
