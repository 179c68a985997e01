"""``GET /swarm/events``: the parts of the status as they change.

* One look for all streams, at most one in ``EVERY_S``, and none while nobody listens.
* An event holds a part as it is now, not what has happened to it: a client that has missed some misses nothing.
* ``Last-Event-ID``: a stream begins with the parts that have changed since that event; without it, or with one of another
  life of this process, with all of them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec

from swarm.errors import SwarmError
from swarm.http.cached import Cache
from swarm.http.jobs.fan_out import EventStream, FanOut, Subscriber, event
from swarm.http.parts import HttpParts
from swarm.views.batches.batch_documents import BatchList
from swarm.views.overview import StatusView

EVERY_S = 1.0
COST_SHARE = 0.1
"""Looking takes no more than this share of the time."""
MOST_STREAMS = 1000

PARTS: Mapping[str, tuple[str, ...]] = {
    "status": ("root", "running", "brain_alive", "supervisor_alive", "simulated", "cards_note"),
    "alarms": ("alarms",),
    "queue": ("queue", "lanes"),
    "workers": ("workers",),
    "cards": ("cards",),
    "active": ("active",),
    "throughput": ("throughput",),
}
"""Events by name, and the fields of the status document that each holds. Beside them: ``batches``, ``fault``."""
_ALWAYS_MOVES = frozenset(
    {"idle_s", "energy_j", "power_w", "oldest_pending_s", "oldest_s", "elapsed_s", "eta_s", "j_per_1k_tokens"}
)
"""Fields that change while nothing happens: they go with an event, but cause none."""


class StatusEvents:
    """The streams of one server."""

    def __init__(self, parts: HttpParts, batches: Cache[BatchList]) -> None:
        self._server = parts
        self._batches = batches
        self._epoch = f"{time.time_ns():x}"
        self._number = 0
        self._parts: dict[str, tuple[object, int, bytes]] = {}
        """By name: what it is compared by, the number of its event, and that event."""
        self._batches_due_s = 0.0
        self._counted: object = None
        self._looked = asyncio.Event()
        self.fan_out = FanOut(self._watch, ending=parts.ending, most=MOST_STREAMS)

    def stream(self, last_event_id: str | None) -> EventStream:
        """The answer to one client. Raises ``ApiError`` when there are too many."""
        self.fan_out.check_room()

        async def first(subscriber: Subscriber) -> Iterable[bytes]:
            await self._looked.wait()
            subscriber.forget()  # the parts hold it
            return [data for _, number, data in self._in_order() if number > self._seen(last_event_id)]

        return EventStream(self.fan_out, first)

    def _in_order(self) -> list[tuple[object, int, bytes]]:
        return sorted(self._parts.values(), key=lambda part: part[1])

    def _seen(self, last_event_id: str | None) -> int:
        epoch, _, number = (last_event_id or "").partition("-")
        return int(number) if epoch == self._epoch and number.isdecimal() else 0

    async def _watch(self) -> None:
        self._looked.clear()
        while True:
            begun_s = time.monotonic()
            try:
                await self._look()
            except SwarmError as problem:
                self._set("fault", {"message": problem.message, "hint": problem.hint})
            except OSError as problem:
                self._set("fault", {"message": f"the swarm cannot be looked at: {problem}", "hint": "swarm doctor"})
            self._looked.set()
            cost_s = time.monotonic() - begun_s
            await asyncio.sleep(max(EVERY_S, cost_s / COST_SHARE))

    async def _look(self) -> None:
        status = (await self._server.observer.look()).value.status
        for name, document in _parts_of(status):
            self._set(name, document)
        counted = _steady(msgspec.to_builtins(status.queue))
        if time.monotonic() >= self._batches_due_s and (counted != self._counted or "batches" not in self._parts):
            found = await self._batches.get()
            self._batches_due_s = time.monotonic() + max(EVERY_S, found.cost_s / COST_SHARE)
            self._counted = counted
            self._set("batches", msgspec.to_builtins(found.value))
        self._set("fault", None)

    def _set(self, name: str, document: Any) -> None:  # noqa: ANN401 - as JSON knows it
        """Publish it if it has changed. No fault so far is no news."""
        key = _steady(document)
        before = self._parts.get(name)
        if (before is None and document is None) or (before is not None and before[0] == key):
            return
        self._number += 1
        data = event(name, document, f"{self._epoch}-{self._number}")
        self._parts[name] = (key, self._number, data)
        self.fan_out.publish(data)


def _parts_of(status: StatusView) -> Iterator[tuple[str, Any]]:
    document = msgspec.to_builtins(status)
    for name, fields in PARTS.items():
        yield name, {field: document[field] for field in fields}


def _steady(value: object) -> object:
    """What it is compared by."""
    match value:
        case dict():
            return {name: _steady(item) for name, item in value.items() if name not in _ALWAYS_MOVES}
        case list() | tuple():
            return [_steady(item) for item in value]
        case _:
            return value
