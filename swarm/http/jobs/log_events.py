"""``GET /swarm/logs?follow``: new entries of logs as they are written.

* One reader follows the files for all streams, and none does while nobody listens. An entry is encoded once.
* Of a flood only ``MOST_AT_ONCE`` entries are sent in ``EVERY_S``, and as many in all are kept while a client's history is
  read. An event ``skipped`` says how many were not; the history may hold some of them.
* A stream begins with the last entries; one that is opened again begins with them again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

from starlette.concurrency import run_in_threadpool

from swarm.http.jobs.fan_out import EventStream, FanOut, Subscriber, event
from swarm.http.parts import HttpParts
from swarm.runtime.logging import LogOnce
from swarm.views.logs.follow import Follower
from swarm.views.logs.log_files import Entry, is_start
from swarm.views.logs.log_query import ChosenLogs, log_line

EVERY_S = 0.5
MOST_AT_ONCE = 200
MOST_STREAMS = 100


@dataclass
class _Follow:
    """What one client follows."""

    wanted: Callable[[Entry], bool]
    early: list[Entry] | None = field(default_factory=list)
    """What came while its history was read, the first ``MOST_AT_ONCE`` of it; None after that."""
    not_kept: int = 0
    """Of what came then."""


class LogEvents:
    """The streams of one server."""

    def __init__(self, parts: HttpParts) -> None:
        self._folder = f"{parts.settings.queue.root}/logs"
        self._clients = WeakKeyDictionary[Subscriber, _Follow]()
        self._follows = asyncio.Event()
        self._troubles = LogOnce(parts.log)
        self.fan_out = FanOut(self._watch, ending=parts.ending, most=MOST_STREAMS, backlog=3 * MOST_AT_ONCE)

    def stream(self, chosen: ChosenLogs) -> EventStream:
        """The answer to one client, who gets what is wanted of the logs that were chosen.

        Raises ``ApiError`` when there are too many.
        """
        self.fan_out.check_room()
        names = frozenset(chosen.names)

        def wanted(entry: Entry) -> bool:
            return (not names or entry.source in names) and chosen.wanted(entry) and not is_start(entry)

        async def first(subscriber: Subscriber) -> Iterable[bytes]:
            await self._follows.wait()  # then no line falls between the history and what follows
            follow = self._clients[subscriber] = _Follow(wanted)
            before = await run_in_threadpool(lambda: tuple(chosen.entries()))
            shown = {(entry.source, entry.lines) for entry in before}
            early, follow.early = follow.early or [], None
            sent = map(_event, (*before, *(entry for entry in early if (entry.source, entry.lines) not in shown)))
            return (*sent, _skipped(follow.not_kept)) if follow.not_kept else sent

        return EventStream(self.fan_out, first)

    async def _watch(self) -> None:
        follower = await run_in_threadpool(Follower, self._folder, ())
        try:
            self._follows.set()
            while True:
                await asyncio.sleep(EVERY_S)
                try:
                    entries = await run_in_threadpool(follower.poll)
                except OSError as problem:
                    self._troubles.failing("poll", f"Logs cannot be followed: {problem}", logging.WARNING)
                    continue
                self._troubles.working("poll", "Logs can be followed again")
                for entry in entries[:MOST_AT_ONCE]:
                    self._publish(entry)
                if len(entries) > MOST_AT_ONCE:
                    self.fan_out.publish(_skipped(len(entries) - MOST_AT_ONCE))
        finally:
            self._follows.clear()
            follower.close()

    def _publish(self, entry: Entry) -> None:
        data = _event(entry)
        for subscriber in self.fan_out:
            follow = self._clients.get(subscriber)
            if follow is None or not follow.wanted(entry):
                continue
            if follow.early is None:
                subscriber.put(data)
            elif len(follow.early) < MOST_AT_ONCE:
                follow.early.append(entry)
            else:
                follow.not_kept += 1


def _event(entry: Entry) -> bytes:
    return event("log", log_line(entry))


def _skipped(number: int) -> bytes:
    return event("skipped", {"entries": number})
