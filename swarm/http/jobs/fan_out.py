"""Server-sent events for many clients: each event is made once, and the same bytes are sent to all.

* A client that does not read is dropped once ``BACKLOG`` events wait for it; nothing is kept for it beyond that.
* A comment every ``HEARTBEAT_S`` shows both sides that the connection lives.
* A stream ends when its client hangs up and when the server stops.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from swarm.http.answers import ApiError, encoded

BACKLOG = 64
"""Events that wait for one client before it is dropped."""
HEARTBEAT_S = 15.0
HEARTBEAT = b": alive\n\n"
_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),  # nginx would collect them
]


def event(kind: str, document: object, event_id: str | None = None) -> bytes:
    """One event; JSON holds no line breaks."""
    head = f"id: {event_id}\nevent: {kind}\n" if event_id is not None else f"event: {kind}\n"
    return head.encode() + b"data: " + encoded(document) + b"\n\n"


class Subscriber:
    """One client of a stream."""

    def __init__(self, backlog: int) -> None:
        self._backlog = backlog
        self._waiting: deque[bytes] = deque()
        self._news = asyncio.Event()
        self._ended = False
        self._sending: asyncio.Task[object] | None = None
        self.dropped = False
        """It did not read."""

    def put(self, data: bytes) -> None:
        """Send it when the client takes it; drops a client that has too much to take already."""
        if self._ended:
            return
        if len(self._waiting) >= self._backlog:
            self.dropped = True
            self._waiting.clear()
            self.end()
            if self._sending is not None:
                self._sending.cancel()  # it waits for the client
            return
        self._waiting.append(data)
        self._news.set()

    def forget(self) -> None:
        """Send nothing of what waits."""
        self._waiting.clear()

    def end(self) -> None:
        """End the stream once what waits has been sent."""
        self._ended = True
        self._news.set()

    async def send_all(self, send: Callable[[bytes], Awaitable[None]]) -> None:
        """Until ``end`` or the drop of its client."""
        self._sending = asyncio.current_task()
        try:
            while True:
                while self._waiting:
                    await send(self._waiting.popleft())
                if self._ended:
                    return
                self._news.clear()
                await self._news.wait()
        except asyncio.CancelledError:
            if not self.dropped:
                raise
        finally:
            self._sending = None


class FanOut:
    """The clients of one kind of stream, on one event loop. ``work`` runs while there are any."""

    def __init__(
        self, work: Callable[[], Coroutine[None, None, None]], *, ending: asyncio.Event, most: int, backlog: int = BACKLOG
    ) -> None:
        """``ending`` is set when the server is to stop."""
        self._work = work
        self._ending = ending
        self._most = most
        self._backlog = backlog
        self._subscribers: set[Subscriber] = set()
        self._tasks: tuple[asyncio.Task[None], ...] = ()
        self.dropped = 0
        """Clients that did not read, so far."""

    def __len__(self) -> int:
        return len(self._subscribers)

    def check_room(self) -> None:
        """Raises ``ApiError`` 429 when there are too many already."""
        if len(self._subscribers) >= self._most:
            said = f"there are {self._most} streams of this kind already"
            raise ApiError(429, said, kind="rate_limit_error", hint="end one of them", headers={"Retry-After": "15"})

    @contextlib.asynccontextmanager
    async def joined(self) -> AsyncIterator[Subscriber]:
        """One more client within the block."""
        subscriber = Subscriber(self._backlog)
        self._subscribers.add(subscriber)
        if not self._tasks:
            self._tasks = (asyncio.create_task(self._work()), asyncio.create_task(self._beat()))
        try:
            yield subscriber
        finally:
            self._subscribers.discard(subscriber)
            self.dropped += subscriber.dropped
            if not self._subscribers:
                for task in self._tasks:
                    task.cancel()
                self._tasks = ()

    def __iter__(self) -> Iterator[Subscriber]:
        """All of them now."""
        return iter(tuple(self._subscribers))

    def publish(self, data: bytes) -> None:
        """To all."""
        for subscriber in self:
            subscriber.put(data)

    async def _beat(self) -> None:
        while True:
            try:
                await asyncio.wait_for(self._ending.wait(), HEARTBEAT_S)
            except TimeoutError:
                self.publish(HEARTBEAT)
            else:
                break
        for subscriber in self:
            subscriber.end()


class EventStream(Response):
    """An answer that lasts. ``first`` gives what a client is sent at the beginning, after it has joined."""

    def __init__(self, fan_out: FanOut, first: Callable[[Subscriber], Awaitable[Iterable[bytes]]]) -> None:
        super().__init__()
        self._fan_out = fan_out
        self._first = first

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - as ASGI has it
        """Send until the client hangs up."""

        async def body(data: bytes) -> None:
            await send({"type": "http.response.body", "body": data, "more_body": True})

        async with self._fan_out.joined() as subscriber:
            await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
            hanging_up = asyncio.create_task(_hung_up(receive, subscriber))
            try:
                await body(HEARTBEAT)
                for data in await self._first(subscriber):
                    await body(data)
                await subscriber.send_all(body)
            finally:
                hanging_up.cancel()
            if not subscriber.dropped:
                await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _hung_up(receive: Receive, subscriber: Subscriber) -> None:
    """End it when its client is gone."""
    message: Mapping[str, object] = {}
    while message.get("type") != "http.disconnect":
        message = await receive()
    subscriber.end()
