"""Live requests on cards full of batch work: how much later their first token comes, and what the batch loses."""

from __future__ import annotations

import asyncio
import itertools
import random
import sys
import time
from collections import Counter
from collections.abc import Iterable
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
SETTLE_S = 3.0
"""Places that live requests gave back go to the batch again within this."""
PATH = "/v1/chat/completions"


async def measure(cards: int, phase_s: float, rounds: int) -> dict[str, Any]:
    """Live requests come at random moments, ``LIVE_PER_S`` on average."""
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
    idle, _ = await _phase(session, url, queue, phase_s / 2, live=True)
    most = int(cards * SLOTS / REQUEST_S * (2 * rounds * (phase_s + SETTLE_S) + 60))
    ids = enqueue(queue, [chat_task(f"question {n}") for n in range(most)])
    until(lambda: sum(queue.stats().processing.values()) >= cards * SLOTS, "the cards to be full")
    busy: list[Took] = []
    alone_per_s, beside_per_s, live_per_s = [], [], []
    for number in range(rounds):
        for live in (False, True):
            await asyncio.sleep(SETTLE_S)
            took, per_s = await _phase(session, url, queue, phase_s, live=live)
            (beside_per_s if live else alone_per_s).append(per_s)
            if live:
                busy += took
                live_per_s.append(len(took) / phase_s)
        print(f"  {number + 1} of {rounds} rounds", file=sys.stderr, flush=True)
    alone, beside, live_rate = (sum(rates) / len(rates) for rates in (alone_per_s, beside_per_s, live_per_s))
    first = {name: [one.first_token_s for one in took] for name, took in (("idle", idle), ("busy", busy))}
    lost, share = 1 - beside / alone, live_rate / alone
    return {
        "live_requests": {name: len(values) for name, values in first.items()},
        "first_token_ms": {n: {f"p{q}": quantile_ms(v, q / 100) for q in (50, 99)} for n, v in first.items()},
        "extra_p99_ms": round(quantile_ms(first["busy"], 0.99) - quantile_ms(first["idle"], 0.99), 1),
        "aim_ms": 50 + 1000 * STEP_S,
        "batch_per_s": {"alone": round(alone, 2), "beside_live": round(beside, 2), "by_round": [alone_per_s, beside_per_s]},
        "live_per_s": round(live_rate, 2),
        "batch_lost": round(lost, 4),
        "live_share_of_work": round(share, 4),
        "lost_beyond_live_share": round(lost - share, 4),
        "attempts": _outcomes(queue, ids),
    }


async def _phase(
    session: aiohttp.ClientSession, url: str, queue: FileQueue, seconds: float, *, live: bool
) -> tuple[list[Took], float]:
    """Requests that began in this time, and batch tasks that ended in it, a second."""
    began_s, before = time.monotonic(), queue.stats().completed
    under_way: list[asyncio.Task[Took]] = []
    for number in itertools.count():
        left_s = began_s + seconds - time.monotonic()
        pause_s = random.expovariate(LIVE_PER_S) if live else left_s
        if pause_s >= left_s:
            await asyncio.sleep(max(0.0, left_s))
            break
        await asyncio.sleep(pause_s)
        under_way.append(asyncio.create_task(chat(session, url, PATH, f"live {number}")))
    per_s = (queue.stats().completed - before) / (time.monotonic() - began_s)
    return list(await asyncio.gather(*under_way)), per_s


def _outcomes(queue: FileQueue, ids: Iterable[str]) -> dict[str, int]:
    """How the attempts of these tasks ended; an attempt that yielded leaves no trace."""
    return Counter(attempt["outcome"] for one in ids for attempt in queue.read(one).get("attempts", ()))
