"""Options that are given again with another value: known items keep what they were submitted with, and that is said."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from swarm.core.task import TaskState
from swarm.errors import QueueError
from swarm.queue.lookup import ended_in

if TYPE_CHECKING:
    from swarm.queue.file_queue import FileQueue

_MOVES = frozenset({"not_before"})
"""``10m`` means another moment each time."""


def note_if_kept(
    queue: FileQueue, batch_id: str, items: Iterable[tuple[str, Mapping[str, Any]]], given: Mapping[str, Any]
) -> None:
    """A note on standard error if the first known item that has not completed is not as it would be submitted now.

    ``given``: fields that options ask for. Reads one task at most.
    """
    names = sorted(given.keys() - _MOVES)
    known = queue.batches().known(batch_id) if names else {}
    for key, wanted in items if known else ():
        if key in known and ended_in(queue.layout, known[key]) is not TaskState.COMPLETED:
            with suppress(QueueError):
                there = queue.read(known[key])
                _say([name for name in names if wanted.get(name) != there.get(name)])
            return


def _say(kept: list[str]) -> None:
    if kept:
        options = ", ".join(f"--{name.removesuffix('_s').replace('_', '-')}" for name in kept)
        forget = "`swarm queue purge --older-than 0s --state failed`, which forgets those of all batches,"
        told = f"note: {options}: items submitted before keep theirs; after {forget} failed ones are submitted anew"
        print(told, file=sys.stderr)
