"""Removes files of the HTTP API that have expired, and by the retention of finished tasks those that nobody uses."""

from __future__ import annotations

import logging
import time

from swarm.config.settings import Settings
from swarm.errors import QueueError, StorageFault
from swarm.queue.batches.api_batches import ApiBatches
from swarm.queue.file_queue import FileQueue
from swarm.queue.fsck.fsck import recover_root
from swarm.queue.stores.file_store import FileRecord, FileStore

SWEEP_S = 60.0
RECOVER_S = 3600.0
_DAY_S = 86400.0


class FileSweeper:
    """Reads each record once, then only names."""

    def __init__(self, settings: Settings, queue: FileQueue, log: logging.Logger) -> None:
        self._queue = queue
        self._log = log
        self._store = FileStore(queue.layout, queue.storage)
        self._book = ApiBatches(queue.layout, queue.storage)
        self._keep_s = settings.brain.retention_days * _DAY_S
        self._known: dict[str, FileRecord] = {}
        self._swept_s = self._recovered_s = float("-inf")

    def sweep(self) -> None:
        """Once in ``SWEEP_S``. What an open batch reads stays. Raises ``StorageFault``."""
        now_s = time.monotonic()
        if now_s - self._swept_s < SWEEP_S:
            return
        self._swept_s = now_s
        if now_s - self._recovered_s >= RECOVER_S:  # what a death left of an upload
            self._recovered_s = now_s
            for line in recover_root(self._queue.layout, self._queue.storage):
                self._log.info("%s", line)
        names = self._store.names()
        self._known = {name: self._known[name] for name in names if name in self._known}
        for name in names:
            record = self._known.get(name) or self._read(name)
            if record is not None and self._is_over(record):
                self._remove(name)

    def _read(self, name: str) -> FileRecord | None:
        try:
            record = self._store.stored(name)
        except StorageFault:
            raise
        except QueueError:
            return None  # fsck and its readers name it
        if record is not None:
            self._known[name] = record
        return record

    def _is_over(self, record: FileRecord) -> bool:
        """Results go with the record of their batch, not by their age."""
        now_s = time.time()
        uploaded = record.batch_id is None
        old = uploaded and self._keep_s > 0 and now_s - record.created_at > self._keep_s
        return record.expired(now_s) or old

    def _remove(self, name: str) -> None:
        with self._book.alone():
            if self._book.uses(name) is None and self._store.remove(name):
                self._log.info("file %s has expired and was removed", name)
