"""Feeds a lane from a source of lines, keeping its waiting tasks between two marks.

The order of writes makes sure that a kill neither skips nor doubles a line: tasks are made durable under ids derived from
the line's number, then the cursor moves. Lines between the two at a kill are offered again and found to exist. At most
``MAX_LINES`` lines can be in that state, so a feeder that starts checks ids until that many in a row were new, and none
after that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from swarm.core.workflow.feed import FeedLine, FeedState, FeedStatus, behind, refill, task_id_of, with_rejection
from swarm.formats.input.feed_sources import CommandLines, CsvRows, FileLines
from swarm.queue.stores.feeds import FeedPool, OpenFeed

FeedSource = FileLines | CommandLines | CsvRows
POLL_S = 0.02
LONGEST_POLL_S = 0.2
MAX_LINES = 1000
"""Lines looked at in one step, however many are rejected: they are offered together, and the cursor is saved then."""


class Offer(msgspec.Struct, frozen=True):
    """A line as a task: its document and the lane it will wait in."""

    document: dict[str, Any]
    lane: str
    waits: bool
    """It goes to ``blocked`` first."""


Make = Callable[[FeedLine], Offer | str]
"""A line's task, or why there is none."""


class Feeder:
    """Feeds until its source ends or an operator stops it."""

    def __init__(self, lines: FeedSource, make: Make, pool: FeedPool, book: OpenFeed, state: FeedState) -> None:
        self._lines = lines
        self._make = make
        self._pool = pool
        self._book = book
        self.state = state
        self._lane: str | None = None
        self._waits = False
        self._held: tuple[FeedLine, Offer | str] | None = None
        self._pause_s = POLL_S
        self._doubtful = MAX_LINES
        """So many tasks must yet be new, one after the other, until it is sure that no earlier feeder got as far."""

    @property
    def finished(self) -> bool:
        """No further step is wanted."""
        return self.state.status in ("finished", "stopped", "failed")

    def step(self) -> float:
        """Do what is due; returns the seconds to wait before the next. Raises ``StorageFault``: nothing is lost by it."""
        match self._book.wish():
            case "stop":
                self._become("stopped", "stopped by `swarm feed stop`")
                return 0.0
            case "pause":
                self._become("paused", "paused by `swarm feed pause`")
                return LONGEST_POLL_S
            case "run":
                self._become("running", "")
        self._held = self._held or self._next()
        if self._held is None:
            if self._lines.ended:
                fault = self._lines.fault
                self._become("failed" if fault else "finished", fault or "")
            return self._patience()
        room = self.state.target
        if self._lane is not None:
            pending = self._pool.pending(self._lane, with_blocked=self._waits)
            room = refill(pending, self.state.min, self.state.target)
        if room <= 0:
            return self._patience()
        self._pause_s = POLL_S
        self._fill(room)
        return 0.0

    def _patience(self) -> float:
        self._pause_s = min(self._pause_s * 1.5, LONGEST_POLL_S)
        return self._pause_s

    def _fill(self, room: int) -> None:
        state, documents, looked = self.state, list[dict[str, Any]](), 0
        lane = self._lane
        while len(documents) < room and looked < MAX_LINES:
            held = self._held or self._next()
            self._held = None
            if held is None:
                break
            looked += 1
            line, offer = held
            if isinstance(offer, str):
                state = with_rejection(behind(state, line), line.first, offer)
                continue
            if offer.lane != self._lane:  # its own lane's marks count: look there before it is offered
                self._lane, self._waits, self._held = offer.lane, offer.waits, held
                break
            self._waits = self._waits or offer.waits
            documents.append(
                {"task_id": task_id_of(state.feed_id, line.number), "batch_id": state.feed_id, **offer.document}
            )
            state = behind(state, line)
        if looked == MAX_LINES and not documents and not state.accepted:
            why = state.rejections[0] if state.rejections else "none could be read"
            self._become("failed", f"none of the first {looked:,} lines makes a task; {why}")  # and the cursor stays
        elif state != self.state:
            self._accept(documents, lane, state)

    def _accept(self, documents: list[dict[str, Any]], lane: str | None, state: FeedState) -> None:
        """First the tasks, all of one lane, then the cursor."""
        again = 0
        if documents:
            assert lane is not None
            again = self._pool.offer(documents, lane, doubtful=self._doubtful > 0)
        self._doubtful = MAX_LINES if again else max(0, self._doubtful - len(documents))
        accepted = state.accepted + len(documents)
        self.state = msgspec.structs.replace(state, accepted=accepted, again=state.again + again)
        self._book.save(self.state, tuple(document["task_id"] for document in documents))

    def _next(self) -> tuple[FeedLine, Offer | str] | None:
        line = self._lines.read()
        return None if line is None else (line, self._make(line))

    def _become(self, status: FeedStatus, reason: str) -> None:
        if (status, reason) != (self.state.status, self.state.reason):
            self.state = msgspec.structs.replace(self.state, status=status, reason=reason)
            self._book.save(self.state, ())
