"""Clients of the HTTP benchmarks: streamed chats, timed at their first token and at their end."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import AsyncIterator, Sequence
from typing import NamedTuple

import aiohttp
from benchmarks.throughput_live import MODEL


class Took(NamedTuple):
    """Seconds of one request."""

    first_token_s: float
    whole_s: float


@contextlib.asynccontextmanager
async def connected() -> AsyncIterator[aiohttp.ClientSession]:
    """A client whose connections are kept and not limited in number."""
    timeout = aiohttp.ClientTimeout(total=600)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as session:
        yield session


async def chat(session: aiohttp.ClientSession, url: str, path: str, text: str) -> Took:
    """One streamed chat. Raises ``RuntimeError`` for an answer that is none."""
    body = {"model": MODEL, "messages": [{"role": "user", "content": text}], "stream": True}
    began_s = time.perf_counter()
    first_s, last = 0.0, b""
    async with session.post(f"{url}{path}", json=body) as reply:
        if reply.status != 200:
            raise RuntimeError(f"HTTP {reply.status}: {(await reply.text())[:300]}")
        async for line in reply.content:
            if not first_s and _has_token(line):
                first_s = time.perf_counter()
            last = line.strip() or last
    ended_s = time.perf_counter()
    if not first_s or (last != b"data: [DONE]" and not json.loads(last).get("done")):
        raise RuntimeError(f"an answer without token or end: {last[:300]!r}")
    return Took(first_s - began_s, ended_s - began_s)


def _has_token(line: bytes) -> bool:
    """Whether this line of either form carries text; the first event of OpenAI's form has the role alone."""
    if not line.strip() or line.startswith((b":", b"data: [DONE]")):
        return False
    document = json.loads(line.removeprefix(b"data: "))
    if "choices" in document:
        return bool(document["choices"] and document["choices"][0]["delta"].get("content"))
    return bool(document["message"]["content"])


def quantile_ms(values_s: Sequence[float], share: float) -> float:
    """In milliseconds."""
    ordered = sorted(values_s)
    return round(1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))], 2)
