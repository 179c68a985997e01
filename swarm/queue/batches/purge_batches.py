"""Batches of which nothing is left: their files go once each of their tasks was purged.

A batch stays while any task of it, or of its mapped ones' children, is in any state; while it is being submitted; while
somebody is to be told of its end; if it is a feed, whose state says which lines were fed; and while it is open to a client
of the HTTP server, whose output and error file go with it. Running the same input again does its work again then, as it
would anyway.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import chain

from swarm.core.task import ID_RE, TERMINAL, TaskState
from swarm.errors import LockHeld, QueueError, StorageFault
from swarm.filesystem.entries import is_file, list_names, odd_words, status_of
from swarm.queue.batches.api_batches import ENDED, MARKS, OPEN, remove_result_files
from swarm.queue.batches.batch_book import BatchBook
from swarm.queue.layout import Layout
from swarm.queue.storage import Storage, storage_faults

SUBMITTING_S = 3600.0
"""A submission that wrote nothing for so long was cut off; the next one goes on without what was purged since."""
_DATA = (".items", ".order", ".tally", ".retried", ".report.json")
_ENDINGS = (*_DATA, ".json", *MARKS, ENDED, ".lock")
"""In the order in which they go: whoever dies in between leaves a batch that is still seen to be empty."""

Gone = Callable[[TaskState, str], bool]
"""``gone(state, path)``: whether a finished document is not there, or (when only trying) would not be."""


def not_there(_state: TaskState, path: str) -> bool:
    """Whether the finished document is missing."""
    return not is_file(path)


def being_submitted(layout: Layout) -> frozenset[str]:
    """Ids of all tasks of batches whose submission is under way: those not there yet may depend on those that ended."""
    book = BatchBook(layout, Storage("fast", layout.root))
    found: set[str] = set()
    for batch_id in book.names():
        try:
            if time.time() - _changed_s(f"{layout.batches}/{batch_id}.items") < SUBMITTING_S:
                found.update(() if book.manifest(batch_id).submitted else book.known(batch_id).values())
        except StorageFault:
            raise
        except (FileNotFoundError, QueueError):
            continue
    return frozenset(found)


class EmptyBatches:
    """One walk over all batches, in steps of bounded size."""

    def __init__(
        self, layout: Layout, storage: Storage, *, before_s: float, gone: Gone = not_there, dry: bool = False
    ) -> None:
        """Only batches that were last submitted before ``before_s`` (seconds since the epoch) are looked at."""
        self._layout = layout
        self._storage = storage
        self._book = BatchBook(layout, storage)
        self._before_s = before_s
        self._gone = gone
        self._dry = dry
        self._removed: list[str] = []
        self._walk = self._go()
        self.done = False

    def step(self, budget: int | None = None) -> tuple[str, ...]:
        """Look up about ``budget`` tasks (None: all there are); ids of batches removed now. Raises ``StorageFault``."""
        self._removed = []
        with storage_faults("cannot remove empty batches"):
            while budget is None or budget > 0:
                cost = next(self._walk, None)
                if cost is None:
                    self.done = True
                    break
                budget = None if budget is None else budget - cost
        return tuple(self._removed)

    def _go(self) -> Iterator[int]:
        """Yields what each piece has cost.

        Finished documents and what is active are each looked at twice, in turn: a task on the move is in one of them.
        """
        found: list[str] = []
        yield from self._all_ended_gone(self._names(), found)
        for _ in range(2):
            if not found:
                return
            active: set[str] = set()
            yield from self._list_active(active)
            inactive = [batch_id for batch_id in found if active.isdisjoint(self._ids(batch_id))]
            found = []
            yield from self._all_ended_gone(inactive, found)
        for batch_id in found:
            self._remove(batch_id)
            yield 10

    def _all_ended_gone(self, batch_ids: list[str], found: list[str]) -> Iterator[int]:
        """Adds those to ``found`` of which no finished document is there."""
        for batch_id in batch_ids:
            yield 1
            if not self._may_go(batch_id):
                continue
            for number, task_id in enumerate(self._ids(batch_id)):
                if not all(self._gone(state, self._layout.terminal(state, task_id)) for state in TERMINAL):
                    break
                if number % 100 == 0:
                    yield 100
            else:
                found.append(batch_id)

    def _list_active(self, found: set[str]) -> Iterator[int]:
        """Adds the ids in ``pending``, ``blocked`` and ``processing``, and the mapped tasks they are children of."""
        layout = self._layout
        lanes = (layout.lane(lane) for lane in list_names(layout.pending))
        buckets = (f"{lane}/{bucket}" for lane in lanes for bucket in list_names(lane))  # raises where it may not look
        held = (layout.held_by(worker) for worker in list_names(layout.processing))
        for folder in chain(buckets, (layout.blocked,), held):
            names = list_names(folder)
            for task_id in (name.partition(".")[0] for name in names):
                found.add(task_id)
                parent, _, number = task_id.rpartition("-")
                if number.isdecimal():
                    found.add(parent)
            yield len(names)

    def _names(self) -> list[str]:
        stems = {n[: -len(e)] for n in list_names(self._layout.batches) if n[0] != "." for e in _ENDINGS if n.endswith(e)}
        return sorted(stem for stem in stems if ID_RE.fullmatch(stem))

    def _may_go(self, batch_id: str) -> bool:
        """By its own files."""
        others = (
            f"{self._layout.feeds}/{batch_id}.json",
            f"{self._layout.outbox}/batch-{batch_id}.json",
            f"{self._layout.batches}/{batch_id}{OPEN}",
        )
        if any(os.path.lexists(path) for path in others):
            return False
        own = [f"{self._layout.batches}/{batch_id}{ending}" for ending in _ENDINGS]
        if any(odd_words(path) for path in own) or not self._is_ours(batch_id):
            return False  # fsck names it
        return all(
            _changed_s(f"{self._layout.batches}/{batch_id}{e}") < self._before_s
            for e in (".items", ".order", ".json", ENDED)
        )

    def _is_ours(self, batch_id: str) -> bool:
        if not os.path.lexists(f"{self._layout.batches}/{batch_id}.json"):
            return True  # cut off, at its submission or at its removal
        try:
            self._book.manifest(batch_id)
        except StorageFault:
            raise
        except QueueError:
            return False
        return True

    def _ids(self, batch_id: str) -> Iterator[str]:
        yield from self._book.order(batch_id)
        yield from self._book.known(batch_id).values()

    def _remove(self, batch_id: str) -> None:
        if self._dry:
            self._removed.append(batch_id)
            return
        with suppress(LockHeld), self._book.alone(batch_id):
            if not self._may_go(batch_id):
                return  # submitted again since
            remove_result_files(self._layout, self._storage, batch_id)
            for ending in _ENDINGS:
                with suppress(FileNotFoundError):
                    os.unlink(f"{self._layout.batches}/{batch_id}{ending}")
            self._removed.append(batch_id)


def _changed_s(path: str) -> float:
    status = status_of(path)
    return float("-inf") if status is None else status.st_mtime
