"""A feed: a source of lines submitted little by little, with a durable cursor. Pure."""

from __future__ import annotations

from typing import Literal

import msgspec

FeedStatus = Literal["running", "paused", "stopped", "finished", "failed"]
Wish = Literal["run", "pause", "stop"]
MAX_NOTED = 100
"""Rejected lines that are kept with their reasons; all are counted."""


class FeedState(msgspec.Struct, frozen=True, kw_only=True):
    """``feeds/<id>.json``: what the feed is and how far it is. Written by its feeder alone, after the tasks are durable."""

    feed_id: str
    source: str
    """The file's absolute path, or the command as typed."""
    is_command: bool = False
    format: str
    model: str | None = None
    min: int
    target: int
    created_at: str
    updated_at: str = ""
    status: FeedStatus = "running"
    reason: str = ""
    number: int = 0
    """Lines behind the cursor, blank ones included."""
    offset: int = 0
    """Bytes behind the cursor."""
    last_bytes: int = 0
    last_digest: str = ""
    """Length and digest of the last line behind the cursor: tells a source that is no longer the same."""
    header_digest: str = ""
    """Of a CSV file's header."""
    accepted: int = 0
    """Tasks made of these lines."""
    again: int = 0
    """Of these, found to be there already when a feeder went on after a kill."""
    rejected: int = 0
    rejections: tuple[str, ...] = ()
    """``line N: why``, the first ``MAX_NOTED``."""


class FeedLine(msgspec.Struct, frozen=True):
    """One line of a source."""

    number: int
    """From 1; of lines that were passed over (blank ones) before it the count goes on. A row of several: its last one."""
    raw: bytes
    """Without its line end; a row of CSV may have line ends within."""
    end: int
    """Bytes of the source up to and with its line end."""
    size: int
    """Bytes of it with its line end."""
    digest: str

    @property
    def first(self) -> int:
        """The number of its first line."""
        return self.number - self.raw.count(b"\n")


def refill(pending: int, low: int, target: int) -> int:
    """How many to offer now: up to ``target`` once fewer than ``low`` wait, else none."""
    return target - pending if pending < low else 0


def task_id_of(feed_id: str, number: int) -> str:
    """The same line always becomes the same task; ids sort as the lines do."""
    return f"{feed_id}-{number:010d}"


def behind(state: FeedState, line: FeedLine) -> FeedState:
    """The state with its cursor moved past this line."""
    return msgspec.structs.replace(state, number=line.number, offset=line.end, last_bytes=line.size, last_digest=line.digest)


def with_rejection(state: FeedState, number: int, why: str) -> FeedState:
    """One line more that made no task."""
    noted = state.rejections
    if len(noted) < MAX_NOTED:
        noted = (*noted, f"line {number}: {why}")
    return msgspec.structs.replace(state, rejected=state.rejected + 1, rejections=noted)
