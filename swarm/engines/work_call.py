"""One request for work, whatever the engine: its body written, its reply read within limits, what breaks told as a fault."""

from __future__ import annotations

import http.client
import re
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from swarm.core.faults import TaskFault
from swarm.core.models.model_server import MIB
from swarm.engines.classify import fault_of_transport
from swarm.engines.control_http import ConnectTimeout
from swarm.engines.deadlines import Deadlines, too_large
from swarm.engines.work_http import WorkHttp, WorkReply

_MARKER_RE = re.compile(r"[A-Za-z0-9._:/-]{1,200}")
_ERROR_BYTES = MIB // 4


def encoded(body: Mapping[str, Any]) -> bytes:
    """The body as JSON. Raises ``TaskFault`` kind ``bad_request``."""
    try:
        return msgspec.json.encode(body)
    except (TypeError, ValueError, RecursionError) as error:
        raise TaskFault("deterministic", "bad_request", f"the request cannot be written as JSON: {error}") from error


def marker_header(marker: str | None) -> dict[str, str]:
    """Tells the server's log which task it is."""
    return {"X-Swarm-Task": marker} if marker and _MARKER_RE.fullmatch(marker) else {}


@asynccontextmanager
async def answered(
    work: WorkHttp,
    path: str,
    body: Mapping[str, Any],
    headers: Mapping[str, str],
    deadlines: Deadlines,
    refused: Callable[[int, str], TaskFault],
) -> AsyncIterator[WorkReply]:
    """Send it; the block reads a reply with status 200. Whatever goes wrong leaves as ``TaskFault``.

    ``refused`` classes another status with the text that came with it.
    """
    raw = encoded(body)
    try:
        async with work.post(path, raw, headers, deadlines) as reply:
            if reply.status != 200:
                text = (await _start(reply, _ERROR_BYTES)).decode("utf-8", "replace")
                raise refused(reply.status, text)
            yield reply
            await reply.drain()
    except ConnectTimeout as error:
        raise fault_of_transport(error, url=work.base_url) from error
    except TimeoutError as error:
        raise deadlines.fault() from error
    except (OSError, http.client.HTTPException) as error:
        raise fault_of_transport(error, url=work.base_url) from error


async def whole_body(reply: WorkReply, max_bytes: int) -> bytes:
    """All of it. Raises ``TaskFault`` kind ``reply_too_large`` past ``max_bytes``."""
    whole = bytearray()
    async for data in reply.pieces():
        whole += data
        if len(whole) > max_bytes:
            raise too_large(max_bytes)
    return bytes(whole)


async def _start(reply: WorkReply, max_bytes: int) -> bytes:
    """The start of the body, ``max_bytes`` at most."""
    start = bytearray()
    async for data in reply.pieces():
        start += data
        if len(start) > max_bytes:
            break
    return bytes(start[:max_bytes])
