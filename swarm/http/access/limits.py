"""Limits of one request: the size of its body, how slowly it may come, and how many of a client's run at once."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from starlette.types import Message, Receive

from swarm.http.answers import ApiError
from swarm.http.parts import Client
from swarm.queue.stores.tokens import LOCAL

SLOWEST_BYTES_PER_S = 4096
"""A body that comes at this rate gets as much more time as it takes."""
LINGER_S = 10.0
"""What a refused client still sends is read for so long: else it may never see the answer."""


class LimitedBody:
    """Stands for ``receive``. It raises ``ApiError`` 413 for a longer body, and 408 for one that comes too slowly."""

    def __init__(self, receive: Receive, most_bytes: int, timeout_s: float) -> None:
        self.ended = False
        """All of it was received."""
        self.refused: ApiError | None = None
        """What was raised."""
        self._receive = receive
        self._most_bytes = most_bytes
        self._timeout_s = timeout_s
        self._bytes = 0
        self._waited_s = 0.0

    async def __call__(self) -> Message:
        """The next message; the time between two calls is the application's and does not count."""
        if self.ended:
            return await self._receive()
        begun_s = time.monotonic()
        left_s = self._timeout_s + self._bytes / SLOWEST_BYTES_PER_S - self._waited_s
        try:
            async with asyncio.timeout(left_s):
                message = await self._receive()
        except TimeoutError:
            self.refused = ApiError(408, "the rest of the request did not come in time", code="request_timeout")
            raise self.refused from None
        self._waited_s += time.monotonic() - begun_s
        if message["type"] != "http.request":
            self.ended = True
            return message
        self._bytes += len(message.get("body", b""))
        if self._bytes > self._most_bytes:
            self.refused = too_large(self._most_bytes)
            raise self.refused
        self.ended = not message.get("more_body", False)
        return message


def too_large(most_bytes: int) -> ApiError:
    """The refusal of a longer body."""
    return ApiError(413, f"the request is larger than {most_bytes >> 20} MiB", code="request_too_large")


async def discard_rest(receive: Receive) -> None:
    """Read what a refused client still sends, for a while."""
    try:
        async with asyncio.timeout(LINGER_S):
            more = True
            while more:
                message = await receive()
                more = message["type"] == "http.request" and message.get("more_body", False)
    except TimeoutError:
        return


class InFlight:
    """How many requests of each client run. For one thread."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._running: Counter[str] = Counter()

    @contextmanager
    def one(self, client: Client | None) -> Iterator[None]:
        """One more within the block. Raises ``ApiError`` 429 at a token's limit; who needs no token has none."""
        if client is None or client.name == LOCAL:
            yield
            return
        name = client.name
        if self._running[name] >= self._most:
            text = f"{self._most} requests of the token {name} run already"
            hint = "wait for some to end, or raise http.client_requests"
            raise ApiError(
                429, text, kind="rate_limit_error", code="too_many_requests", hint=hint, headers={"retry-after": "1"}
            )
        self._running[name] += 1
        try:
            yield
        finally:
            self._running[name] -= 1
            if not self._running[name]:
                del self._running[name]
