"""What the batch driver remembers of one open batch: caches, made anew from the disk whenever in doubt."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Mapping
from typing import Any

from swarm.core.batches.life import CANCELLABLE, counts_shown
from swarm.http.batches.requests import Checked
from swarm.http.batches.result_files import Results
from swarm.queue.batches.api_batches import ApiBatch, ApiBatches, ShownCounts
from swarm.queue.batches.batch_watch import BatchWatch
from swarm.queue.file_queue import FileQueue
from swarm.queue.lookup import Presence

LOOK_SHARE = 20
"""At most one part in so many of the time goes into counting."""
QUIET_S = 10.0
"""When nothing has ended for so long, it is checked whether what is waited for is still there."""


class FollowedBatch:
    """Memory: some 200 bytes a request that is in the queue."""

    def __init__(self, queue: FileQueue, batch: ApiBatch, shown: ShownCounts) -> None:
        self.batch = batch
        self.known = queue.batches().known(batch.id)
        """Task ids by item key, of what is on record as submitted."""
        self._layout = queue.layout
        self._watch = BatchWatch(queue.layout, self.known.values())
        self._ended = self._watch.look()
        self._shown = shown
        self._suspects: frozenset[str] = frozenset()
        self._lost = 0
        self._look_again_s = self._searched_s = 0.0
        self._changed_s = time.monotonic()
        self.requests: Iterator[tuple[str, Mapping[str, Any]]] | None = None
        """Of the input file, those not offered to the queue in this life."""
        self.refused = 0
        """Of these, those that cannot be submitted any more."""
        self.checking: Generator[None, None, Checked] | None = None
        self.writing: Generator[None, None, Results | None] | None = None
        self.stopped_s = 0.0

    @property
    def unended(self) -> int:
        """Requests in the queue that have not ended."""
        return self._ended.left - self._lost

    def open_ids(self) -> list[str]:
        """Tasks that have not ended."""
        return self._watch.open_ids()

    def submitted(self, known: dict[str, str]) -> None:
        """Take in what is on record now."""
        self._watch.add(task_id for key, task_id in known.items() if key not in self.known)
        self.known = known
        self._changed_s = time.monotonic()
        self._ended = self._watch.look()

    def look_soon(self) -> None:
        """Let the next ``count`` look, whatever the last one has cost."""
        self._look_again_s = 0.0

    def count(self, book: ApiBatches) -> None:
        """See what has ended, and show it to clients. Raises ``StorageFault``."""
        now_s = time.monotonic()
        if now_s < self._look_again_s:
            return
        before, self._ended = self._ended, self._watch.look()
        if self._ended != before:
            self._changed_s = now_s
        ends = self.batch.status not in CANCELLABLE
        if self._ended.left and (ends or now_s - max(self._changed_s, self._searched_s) > QUIET_S):
            self._search()
        self._lost = min(self._lost, self._ended.left)
        self._show(book)
        cost_s = time.monotonic() - now_s
        self._look_again_s = now_s + cost_s * LOOK_SHARE

    def _search(self) -> None:
        """Tasks that are nowhere were never queued, or were removed. One on its way may be missed once, so look twice."""
        present = Presence(self._layout, self.known)
        missing = frozenset(task_id for task_id in self._watch.open_ids() if not present.has(task_id))
        self._lost = len(missing & self._suspects)
        self._suspects = missing
        self._searched_s = time.monotonic()

    def _show(self, book: ApiBatches) -> None:
        if self.batch.total is None:
            return
        ended, shown = self._ended, (self._shown.completed, self._shown.failed)
        now = ShownCounts(*counts_shown(shown, ended.completed, ended.failed + ended.cancelled, self.batch.total))
        if now != self._shown:
            book.show(self.batch.id, now)
            self._shown = now
