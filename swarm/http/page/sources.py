"""What the pages show, read from the swarm: the look at all of it, a batch, a task, a worker.

Every value is kept for a second or more (``Remembered``); calls block and belong in a thread.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import islice
from typing import Any, NamedTuple

from swarm.core.health.liveness import workers_of
from swarm.core.snapshot import SwarmSnapshot
from swarm.core.task import TaskState
from swarm.errors import QueueError, UnknownTask
from swarm.http.page.remembered import Remembered
from swarm.http.parts import HttpParts
from swarm.queue.batches.batch_book import Manifest
from swarm.queue.batches.tally import tally
from swarm.runtime.open import lives, open_observer, swarm_lives
from swarm.views import explanations
from swarm.views.batch_gave import BatchGave, batch_gave
from swarm.views.batch_rows import BatchRow, batch_row
from swarm.views.logs.log_files import ERR, Entry, Wanted, history
from swarm.views.logs.task_history import pattern
from swarm.views.overview import StatusView, look
from swarm.views.task_rows import TaskRow, task_row

LOOK_S = 1.0
BATCH_S = 2.0
FAILURES_S = 20.0
"""Unless their number changes."""
LOG_S = 1.0
SEARCH_S = 10.0
"""Lines about one task are searched in all logs."""
LOG_LINES = 200
FAILURES = 50
"""Of a batch that its page shows."""


class Look(NamedTuple):
    """The whole swarm at one moment."""

    view: StatusView
    snapshot: SwarmSnapshot


class BatchLook(NamedTuple):
    """One batch."""

    row: BatchRow
    manifest: Manifest
    errors: Mapping[str, int]
    """Items by the type of their last error, most first."""
    gave: BatchGave


class Sources:
    """One for the process."""

    def __init__(self, parts: HttpParts) -> None:
        self._settings = parts.settings
        self._queue = parts.queue
        self._observer = open_observer(parts.settings, parts.queue)
        self._observing = threading.Lock()
        self._kept = Remembered()

    def look(self) -> Look:
        """Everything on one screen."""
        return self._kept.get(("look",), LOOK_S, self._look)

    def _look(self) -> Look:
        with self._observing:
            snapshot = self._observer.snapshot()
        return Look(look(self._settings, self._queue, snapshot), snapshot)

    def batches(self, most: int) -> tuple[list[BatchRow], int]:
        """The newest, and how many there are."""
        return self._kept.get(("batches", str(most)), BATCH_S, lambda: self._batches(most))

    def _batches(self, most: int) -> tuple[list[BatchRow], int]:
        names = self._batch_names()
        return [found.row for name in names[:most] if (found := self._batch_or_none(name)) is not None], len(names)

    def _batch_names(self) -> list[str]:
        """Newest first."""
        book = self._queue.batches()
        made: list[tuple[str, str]] = []
        for name in book.names():
            with suppress(QueueError):  # purged in this moment, or unreadable, which `swarm fsck` names
                made.append((book.manifest(name).created_at, name))
        return [name for _, name in sorted(made, reverse=True)]

    def _batch_or_none(self, batch_id: str) -> BatchLook | None:
        try:
            return self.batch(batch_id)
        except QueueError:
            return None

    def batch(self, batch_id: str) -> BatchLook:
        """One batch. Raises ``QueueError`` for one that there is not."""
        return self._kept.get(("batch", batch_id), BATCH_S, lambda: self._batch(batch_id))

    def _batch(self, batch_id: str) -> BatchLook:
        book = self._queue.batches()
        manifest = book.manifest(batch_id)
        before = self._active()
        sums = tally(self._queue.layout, self._queue.storage, batch_id, book.task_ids(batch_id))
        active = max(before, self._active())
        row = batch_row(manifest, sums, alive=swarm_lives(self._settings), active=active, price_per_mtok=None)
        errors = dict(sorted(sums.all.errors.items(), key=lambda pair: -pair[1]))
        return BatchLook(row, manifest, errors, batch_gave(sums, self._bests(), time.time()))

    def _active(self) -> int:
        """Tasks that have not ended, at the most: what is at work may be on the move and counts twice."""
        counts = self._queue.stats()
        return sum(counts.pending.values()) + counts.drop_ins + counts.blocked + 2 * sum(counts.processing.values())

    def _bests(self) -> dict[tuple[str, str], float]:
        beats = [view.heartbeat for view in self.look().snapshot.workers if view.heartbeat is not None]
        return {(b.name, m): t.best_tokens_per_s for b in beats for m, t in b.tuned.items() if t.best_tokens_per_s > 0}

    def failures(self, batch: BatchLook) -> list[TaskRow]:
        """Some of its tasks that failed or were cancelled, with the reason."""
        row = batch.row
        if not row.failed and not row.cancelled:
            return []
        key = ("failures", row.batch_id, str(row.failed), str(row.cancelled))
        return self._kept.get(key, FAILURES_S, lambda: list(islice(self._failures(row.batch_id), FAILURES)))

    def _failures(self, batch_id: str) -> Iterator[TaskRow]:
        own = set(self._queue.batches().task_ids(batch_id))
        for state in (TaskState.FAILED, TaskState.CANCELLED):
            for located in self._queue.list(state):
                if located.task_id in own:
                    with suppress(QueueError):  # retried in this moment
                        yield task_row(located, self._queue.read(located.task_id))

    def task(self, task_id: str) -> tuple[dict[str, Any], explanations.Explanation]:
        """A task's document, and why it is where it is. Raises ``QueueError``."""
        return self._kept.get(("task", task_id), LOOK_S, lambda: self._task(task_id))

    def _task(self, task_id: str) -> tuple[dict[str, Any], explanations.Explanation]:
        try:
            document = self._queue.read(task_id)
        except UnknownTask:
            aside = self._queue.quarantined(task_id)
            if aside is None:
                raise
            return {"task_id": task_id, "state": "corrupt"}, explanations.quarantined(
                task_id, aside, self._settings.queue.root
            )
        missing = explanations.missing_dependency(document, self._queue)
        brain = lives(self._settings, "brain")
        return document, explanations.task(document, self.look().snapshot, self._settings, brain=brain, missing=missing)

    def task_log(self, task_id: str) -> list[Entry]:
        """Lines of the logs about it, oldest first."""
        return self._kept.get(("log of task", task_id), SEARCH_S, lambda: self._log((), Wanted(pattern=pattern(task_id))))

    def worker(self, name: str) -> explanations.Explanation:
        """Why a worker does what it does. Raises ``UnknownTask`` for one that there is not."""
        seen = self.look()
        view = next((view for view in workers_of(seen.snapshot) if view.name == name), None)
        if view is None:
            known = ", ".join(view.name for view in workers_of(seen.snapshot))
            raise UnknownTask(f"there is no worker {name}", hint=f"workers: {known}" if known else "none is registered")
        return explanations.worker(view, seen.snapshot, self._settings, brain=seen.view.brain_alive)

    def worker_log(self, name: str) -> list[Entry]:
        """The last lines of its log and of what it wrote to standard error."""
        return self._kept.get(("log of worker", name), LOG_S, lambda: self._log((name, f"{name}{ERR}"), Wanted()))

    def _log(self, names: tuple[str, ...], wanted: Wanted) -> list[Entry]:
        return list(history(f"{self._settings.queue.root}/logs", names, wanted, LOG_LINES, rotated=False))
