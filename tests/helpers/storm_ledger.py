"""The independent ledger of a storm: what was submitted, and what came of it, by the files alone."""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from swarm.core.task import TERMINAL, TaskState
from swarm.queue.batches.batch_watch import BatchWatch
from swarm.queue.file_queue import FileQueue
from swarm.queue.fsck import fsck
from tests.helpers.crashworld import MAY_REMAIN
from tests.helpers.queues import llm
from tests.helpers.stormplan import MODELS, STUCK_S, Report

WAVES = 20


class StormLedger:
    """Submits, waits and counts; everything it finds goes into ``report``."""

    def __init__(self, queue: FileQueue, report: Report) -> None:
        self._queue = queue
        self._report = report
        self._records: dict[str, tuple[int, int, int]] = {}
        self.ids: list[str] = []
        """Of the tasks that the queue has accepted."""

    def submit(self, dice: random.Random, *, wave_s: float) -> None:
        """So many tasks as the report says, in waves, so that submitting and dying mix."""
        tasks = self._report.tasks
        for wave in range(WAVES):
            size = tasks * (wave + 1) // WAVES - tasks * wave // WAVES
            ids = [self._queue.new_id() for _ in range(size)]
            documents = [llm(f"task {i}", task_id=i, model=dice.choice(MODELS)) for i in ids]
            accepted = max(self._queue.enqueue_many(documents), default=0)
            self.ids.extend(ids[:accepted])
            time.sleep(wave_s)

    def left(self) -> int:
        """How many of them have not ended."""
        return BatchWatch(self._queue.layout, list(self.ids)).look().left

    def wait(self, meanwhile: Callable[[], object]) -> None:
        """Until all have ended, or nothing moves any more."""
        watch = BatchWatch(self._queue.layout, self.ids)
        left, moved_s = len(self.ids), time.monotonic()
        while (now := watch.look().left) and time.monotonic() - moved_s < STUCK_S:
            if now != left:
                left, moved_s = now, time.monotonic()
            meanwhile()
            time.sleep(0.1)
        self._report.stuck = watch.look().left

    def check_meanwhile(self) -> None:
        """``fsck --repair`` in the middle of it all finds nothing wrong and does no harm."""
        self._fsck(MAY_REMAIN | {"abandoned"}, "under fire: ")

    def note_records(self) -> None:
        """Records seen once must stay as they are."""
        for path in self._terminal():
            seen = os.stat(path)
            now = (seen.st_ino, seen.st_mtime_ns, seen.st_size)
            if self._records.setdefault(path, now) != now:
                self._report.changed_records += 1

    def count(self) -> list[dict[str, Any]]:
        """Judge it all; the documents of the tasks that are in one place."""
        report = self._report
        self.note_records()
        places: Counter[str] = Counter()
        for state in TaskState:
            if state is not TaskState.CORRUPT:
                places.update(located.task_id for located in self._queue.list(state))
        report.lost = sum(1 for i in self.ids if not places[i])
        report.recorded_twice = sum(1 for i in self.ids if places[i] > 1)
        documents = [self._queue.read(task_id) for task_id in self.ids if places[task_id] == 1]
        for document in documents:
            self._judge(document)
        self._fsck(MAY_REMAIN, "")
        return documents

    def _fsck(self, allowed: set[str], when: str) -> None:
        report = self._report
        findings = fsck.look(self._queue.layout)
        wrong = [f for f in findings if f.kind not in allowed]
        report.fsck_violations += tuple(f"{when}{f.kind}: {f.path}: {f.what}" for f in wrong)
        report.fsck_cleared += len(fsck.repair(self._queue.layout, self._queue.storage, findings))

    def _terminal(self) -> Iterator[str]:
        for state in (TaskState.COMPLETED, TaskState.FAILED):
            for located in self._queue.list(state):
                yield located.path

    def _judge(self, document: dict[str, Any]) -> None:
        if document["state"] not in TERMINAL:
            return  # counted as stuck
        ends = [a for a in document["attempts"] if a["outcome"] in ("completed", "failed")]
        if document["state"] == TaskState.COMPLETED:
            self._report.completed += 1
            self._report.recorded_twice += len(ends) != 1
            self._report.without_reason += not document.get("result")
        else:
            self._report.failed += 1
            self._report.without_reason += not document.get("error")
