"""Memory of the HTTP server's process with many idle event streams."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import psutil
from benchmarks.http_added import healthy
from benchmarks.http_clients import connected
from benchmarks.throughput_live import asked, swarm, until

from swarm.proc.ports import free_port
from swarm.queue.stores import registry

PATH = "/swarm/events"
SETTLE_S = 5.0


async def measure(streams: int) -> dict[str, Any]:
    """Resident memory before, with so many streams that have all had their first event, and after they hung up."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with swarm(f"[http]\nport = {port}\n", simulate=1, SWARM_SIM_RUNNER="none") as queue:
        until(lambda: healthy(url), "the HTTP server")
        row = until(lambda: registry.read_row(queue.layout, "http"), "its registration")
        process = psutil.Process(row.process.pid)
        asked(url, "/swarm/status")  # what is imported and remembered by any first look
        before_mib = process.memory_info().rss / 2**20
        async with connected() as session, contextlib.AsyncExitStack() as stack:
            replies = []
            for _ in range(streams):
                reply = await stack.enter_async_context(session.get(f"{url}{PATH}"))
                if reply.status != 200:
                    raise SystemExit(f"GET {PATH}: HTTP {reply.status}: {(await reply.text())[:300]}")
                replies.append(reply)
            await asyncio.gather(*(reply.content.readline() for reply in replies))
            await asyncio.sleep(SETTLE_S)
            with_mib = process.memory_info().rss / 2**20
            open_streams = sum(not reply.content.at_eof() for reply in replies)
        await asyncio.sleep(SETTLE_S)
        after_mib = process.memory_info().rss / 2**20
    return {
        "streams": streams,
        "still_open": open_streams,
        "rss_mib": {"before": round(before_mib, 1), "with": round(with_mib, 1), "after": round(after_mib, 1)},
        "added_mib": round(with_mib - before_mib, 1),
        "kib_each": round(1024 * (with_mib - before_mib) / streams, 1),
    }
