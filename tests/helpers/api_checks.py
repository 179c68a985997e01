"""Judges what an OpenAI batch API has answered. Pure: answers in, findings out, a line each; none is the only good end."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from tests.endurance.checks import told

IN_ORDER = ("validating", "in_progress", "finalizing", "completed")
"""A batch passes through these in this order; it may leave some out."""
ENDED = ("completed", "failed", "expired", "cancelled")


class Look(msgspec.Struct, frozen=True):
    """One answer about a batch."""

    status: str
    total: int
    completed: int
    failed: int


class BatchSeen(msgspec.Struct, kw_only=True):
    """All that the API has told of one batch."""

    batch_id: str
    wanted: Sequence[str]
    """The ``custom_id`` of every line of its input."""
    looks: list[Look] = msgspec.field(default_factory=list)
    """In the order in which they came."""
    output: Sequence[Mapping[str, Any]] = ()
    errors: Sequence[Mapping[str, Any]] = ()
    """The lines of its two files."""


def of_batch(seen: BatchSeen) -> list[str]:
    """Each ``custom_id`` once, in the output or in the error file; counts and status never go back, and fit the files."""
    found = [*_of_looks(seen.looks), *_of_lines(seen)]
    last = seen.looks[-1] if seen.looks else None
    if last is None or last.status != "completed":
        found.append(f"it ended as {last.status if last else 'unknown'}")
    elif (last.total, last.completed, last.failed) != (len(seen.wanted), len(seen.output), len(seen.errors)):
        files = f"{len(seen.wanted)} lines asked, {len(seen.output)} in the output, {len(seen.errors)} in the error file"
        found.append(f"its last counts are {last.total}, {last.completed}, {last.failed}: {files}")
    return [f"{seen.batch_id}: {line}" for line in found]


def _of_looks(looks: Sequence[Look]) -> list[str]:
    found = []
    for before, after in itertools.pairwise(looks):
        if after.completed < before.completed or after.failed < before.failed or after.total < before.total:
            found.append(f"counts went back: {before}, then {after}")
        if before.status in ENDED and after.status != before.status:
            found.append(f"it was {before.status}, then {after.status}")
        elif {before.status, after.status} <= set(IN_ORDER) and IN_ORDER.index(after.status) < IN_ORDER.index(before.status):
            found.append(f"its status went back: {before.status}, then {after.status}")
    found += [f"more ended than there are: {look}" for look in looks if look.completed + look.failed > look.total]
    return told(found, str)


def _of_lines(seen: BatchSeen) -> list[str]:
    times = Counter(line["custom_id"] for line in itertools.chain(seen.output, seen.errors))
    strange = set(times) - set(seen.wanted)
    unanswered = [line for line in seen.output if not _answered(line)]
    return [
        *told([i for i in seen.wanted if not times[i]], lambda i: f"lost: {i} is in neither file"),
        *told([i for i in seen.wanted if times[i] > 1], lambda i: f"twice: {i} is there {times[i]} times"),
        *told(sorted(strange), lambda i: f"nobody asked for {i}"),
        *told(unanswered, lambda line: f"{line['custom_id']} is in the output without an answer"),
        *told(
            [line for line in seen.errors if not line.get("error")],
            lambda line: f"{line['custom_id']} failed without a reason",
        ),
    ]


def _answered(line: Mapping[str, Any]) -> bool:
    response = line.get("response") or {}
    choices = (response.get("body") or {}).get("choices") or ()
    return response.get("status_code") == 200 and bool(choices) and bool(choices[0]["message"]["content"])


def of_files(files: Iterable[tuple[str, int, bytes]], uploaded: Iterable[bytes]) -> list[str]:
    """Every stored input is whole: its content is one that was uploaded to its end, and as long as it is said to be."""
    whole = set(uploaded)
    found = []
    for file_id, size_bytes, content in files:
        if len(content) != size_bytes:
            found.append(f"{file_id} is said to have {size_bytes} bytes and has {len(content)}")
        if content not in whole:
            found.append(f"{file_id} holds {len(content)} bytes that nobody uploaded as a whole file")
    return told(found, str)
