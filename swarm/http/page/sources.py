"""What the pages show beside the look at the swarm: batches, tasks, logs; each value kept for a moment (``Remembered``).

Calls block: they belong in a thread.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import islice
from typing import Any, NamedTuple

from swarm.core.health.liveness import workers_of
from swarm.core.snapshot import SwarmSnapshot
from swarm.core.task import TaskState
from swarm.errors import QueueError, UnknownTask
from swarm.http.look import SwarmLook
from swarm.http.page.batch_facts import as_client_sees
from swarm.http.page.remembered import Remembered
from swarm.http.parts import HttpParts
from swarm.queue.batches.api_batches import ApiBatch, ApiBatches
from swarm.runtime.open import lives
from swarm.views import explanations
from swarm.views.batches.batch_documents import BatchView, batch_view
from swarm.views.batches.batch_rows import BatchRow
from swarm.views.explanations import Explanation
from swarm.views.logs.log_files import ERR, Entry, Wanted, history
from swarm.views.logs.task_history import entries as life_of
from swarm.views.logs.task_history import pattern
from swarm.views.task_rows import TaskRow, task_row

TASK_S = 1.0
BATCH_S = 2.0
FAILURES_S = 20.0
"""Unless their number changes."""
LOG_S = 1.0
SEARCH_S = 10.0
"""Lines about one task are searched in all logs."""
LOG_LINES = 200
FAILURES = 200
"""Of a batch that its page looks at."""


class BatchFound(NamedTuple):
    """One batch; at least one of the two."""

    view: BatchView | None
    """What of it is in the queue."""
    of_client: ApiBatch | None
    """The record of a client that created it over HTTP."""


class Sources:
    """One for the process."""

    def __init__(self, parts: HttpParts) -> None:
        self._settings = parts.settings
        self._queue = parts.queue
        self._of_clients = ApiBatches(parts.queue.layout, parts.queue.storage)
        self._kept = Remembered()

    def batches(self, most: int) -> tuple[list[BatchRow], int]:
        """The newest, and how many there are."""
        return self._kept.get(("batches", str(most)), BATCH_S, lambda: self._batches(most))

    def _batches(self, most: int) -> tuple[list[BatchRow], int]:
        names = self._batch_names()
        found: list[BatchRow] = []
        for name in names[:most]:
            with suppress(QueueError):
                if (view := self.batch(name).view) is not None:
                    found.append(view.row)
        return found, len(names)

    def _batch_names(self) -> list[str]:
        """Newest first."""
        book = self._queue.batches()
        made: list[tuple[str, str]] = []
        for name in book.names():
            with suppress(QueueError):  # purged in this moment, or unreadable, which `swarm fsck` names
                made.append((book.manifest(name).created_at, name))
        return [name for _, name in sorted(made, reverse=True)]

    def batch(self, batch_id: str) -> BatchFound:
        """One batch. Raises ``QueueError`` for one that there is not."""
        return self._kept.get(("batch", batch_id), BATCH_S, lambda: self._batch(batch_id))

    def _batch(self, batch_id: str) -> BatchFound:
        of_client = self._of_clients.find(batch_id)
        try:
            view = batch_view(self._queue, self._settings, batch_id)
        except QueueError:
            if of_client is None:
                raise
            return BatchFound(None, of_client)  # nothing of it is in the queue: it is being checked, or its file is bad
        return BatchFound(view._replace(row=as_client_sees(view.row, of_client)), of_client)

    def failures(self, row: BatchRow) -> list[TaskRow]:
        """Its tasks that failed or were cancelled, with the reason; ``FAILURES`` at most."""
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

    def task(self, task_id: str, snapshot: SwarmSnapshot) -> tuple[dict[str, Any], Explanation]:
        """A task's document, and why it is where it is. Raises ``QueueError``."""
        return self._kept.get(("task", task_id), TASK_S, lambda: self._task(task_id, snapshot))

    def _task(self, task_id: str, snapshot: SwarmSnapshot) -> tuple[dict[str, Any], Explanation]:
        try:
            document = self._queue.read(task_id)
        except UnknownTask:
            aside = self._queue.quarantined(task_id)
            if aside is None:
                raise
            explained = explanations.quarantined(task_id, aside, self._settings.queue.root)
            return {"task_id": task_id, "state": explained.state}, explained
        missing = explanations.missing_dependency(document, self._queue)
        brain = lives(self._settings, "brain")
        return document, explanations.task(document, snapshot, self._settings, brain=brain, missing=missing)

    def task_log(self, task_id: str, document: Mapping[str, Any]) -> list[Entry]:
        """Its life as its document tells it, and lines of the logs about it, oldest first."""
        wanted = Wanted(pattern=pattern(task_id))
        return self._kept.get(("log of task", task_id), SEARCH_S, lambda: self._log((), wanted, life_of(document)))

    def worker(self, name: str, seen: SwarmLook) -> Explanation:
        """Why a worker does what it does. Raises ``UnknownTask`` for one that there is not."""
        view = next((view for view in workers_of(seen.snapshot) if view.name == name), None)
        if view is None:
            known = ", ".join(view.name for view in workers_of(seen.snapshot))
            raise UnknownTask(f"there is no worker {name}", hint=f"workers: {known}" if known else "none is registered")
        return explanations.worker(view, seen.snapshot, self._settings, brain=seen.status.brain_alive)

    def worker_log(self, name: str) -> list[Entry]:
        """The last lines of its log and of what it wrote to standard error."""
        return self._kept.get(("log of worker", name), LOG_S, lambda: self._log((name, f"{name}{ERR}"), Wanted()))

    def _log(self, names: tuple[str, ...], wanted: Wanted, record: Iterable[Entry] = ()) -> list[Entry]:
        return list(history(f"{self._settings.queue.root}/logs", names, wanted, LOG_LINES, record, rotated=False))
