"""Batches that clients of the HTTP server created, beside the batch records of the same id in ``batches/``.

* ``<id>.open.json`` the record while the batch lives, ``<id>.ended.json`` once it is over; that one wins where a death left
  both. Only the batch driver changes records.
* ``<id>.cancel`` exists when somebody asked to cancel it; ``<id>.shown.json`` has the counts that clients were shown.
* ``.api.lock`` is held while a batch is created, is asked to be cancelled, or stops being cancellable, and while a file is
  deleted: so a batch never refers to a file that has just gone, nor ends otherwise than it has just answered.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import msgspec

from swarm.core.batches.life import CANCELLABLE, OVER, BatchStatus
from swarm.errors import QueueError
from swarm.filesystem.entries import list_names, read_file, status_of
from swarm.queue.coordination import exclusive, wake
from swarm.queue.layout import Layout
from swarm.queue.storage import Storage, storage_faults
from swarm.queue.stores.file_store import FileStore

OPEN = ".open.json"
ENDED = ".ended.json"
MARKS = (".cancel", ".shown.json")
_BATCH_ID = re.compile(r"batch_[0-9a-z]{12}[0-9a-f]{24}").fullmatch
_RECORD_BYTES = 1 << 20


class BatchProblem(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What is wrong with an input file."""

    code: str
    message: str
    line: int | None = None
    param: str | None = None


class TokenUsage(msgspec.Struct, kw_only=True):
    """Tokens of all answers of a batch."""

    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0


class ApiBatch(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """The record. Times are seconds since the epoch."""

    id: str
    client: str
    endpoint: str
    input_file_id: str
    completion_window: str
    created_at: int
    expires_at: int
    metadata: dict[str, str] | None = None
    output_expires_s: int | None = None
    """Output and error file are to be had for so long."""
    status: BatchStatus = BatchStatus.VALIDATING
    ending: BatchStatus | None = None
    """How it is to end, once that is decided."""
    errors: tuple[BatchProblem, ...] = ()
    total: int | None = None
    """Requests in its file; None until that has been checked."""
    models: dict[str, int] = msgspec.field(default_factory=dict)
    """Requests by model."""
    submitted: bool = False
    """All of them are in the queue, or have been."""
    reached: dict[BatchStatus, int] = msgspec.field(default_factory=dict)
    """When it came to each status."""
    output_file_id: str | None = None
    """Chosen when it begins to finalize, or to be cancelled; while it is open the file may be missing or unfinished."""
    error_file_id: str | None = None
    completed: int = 0
    """Of one that is over, like ``failed`` and ``usage``."""
    failed: int = 0
    usage: TokenUsage | None = None

    def at(self, status: BatchStatus, now_s: float) -> ApiBatch:
        """The record with another status, reached now."""
        return msgspec.structs.replace(self, status=status, reached={**self.reached, status: int(now_s)})


class ShownCounts(msgspec.Struct, frozen=True):
    """What clients were shown."""

    completed: int = 0
    failed: int = 0


class ApiBatches:
    """All of one root. Methods raise ``StorageFault``, and ``QueueError`` for a damaged record."""

    def __init__(self, layout: Layout, storage: Storage) -> None:
        self._layout = layout
        self._storage = storage
        self._lock = f"{layout.batches}/.api.lock"

    def _path(self, batch_id: str, ending: str) -> str:
        return f"{self._layout.batches}/{batch_id}{ending}"

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Hold ``.api.lock`` within the block; waits for it."""
        with storage_faults("the batches cannot be locked"), exclusive(self._storage, self._lock):
            yield

    def names(self) -> list[str]:
        """Ids of all, the oldest first. Reads names only."""
        return self._names((OPEN, ENDED))

    def open_names(self) -> list[str]:
        """Ids of those that are not over."""
        return self._names((OPEN,))

    @storage_faults("the batches cannot be listed")
    def _names(self, endings: tuple[str, ...]) -> list[str]:
        names = list_names(self._layout.batches)
        return sorted({n.partition(".")[0] for n in names if n.endswith(endings) and _BATCH_ID(n.partition(".")[0])})

    def find(self, batch_id: str) -> ApiBatch | None:
        """A record; None for an unknown batch."""
        if not _BATCH_ID(batch_id):
            return None
        with storage_faults(f"batch {batch_id} cannot be read"):
            for ending in (ENDED, OPEN, ENDED):  # it may end between two looks
                try:
                    return msgspec.json.decode(read_file(self._path(batch_id, ending), _RECORD_BYTES), type=ApiBatch)
                except FileNotFoundError:
                    continue
                except ValueError as exc:
                    hint = "`swarm queue fsck` names it; create the batch again"
                    raise QueueError(f"the record of batch {batch_id} is damaged: {exc}", hint=hint) from exc
        return None

    def write(self, batch: ApiBatch) -> None:
        """Make or replace the record of an open one, durably."""
        self._write(batch, OPEN)

    def end(self, batch: ApiBatch) -> None:
        """Put on record that it is over."""
        self._write(batch, ENDED)
        self.clear(batch.id)

    def _write(self, batch: ApiBatch, ending: str) -> None:
        with storage_faults(f"batch {batch.id} could not be recorded"):
            self._storage.replace_json(self._path(batch.id, ending), batch)

    def clear(self, batch_id: str) -> None:
        """Remove what one that is over needs no longer."""
        with storage_faults(f"batch {batch_id} could not be recorded"):
            for ending in (*MARKS, OPEN):
                with suppress(FileNotFoundError):
                    os.unlink(self._path(batch_id, ending))

    def ask_cancel(self, batch_id: str) -> ApiBatch | None:
        """Ask the driver to cancel it; its record, None for an unknown one. Only a ``CANCELLABLE`` one is marked."""
        if self.find(batch_id) is None:
            return None
        with self.alone():
            batch = self.find(batch_id)
            if batch is not None and batch.status in CANCELLABLE:
                with storage_faults(f"batch {batch_id} could not be cancelled"):
                    os.close(self._storage.open_own(self._path(batch_id, ".cancel"), os.O_WRONLY | os.O_CREAT))
                    self._storage.flush(self._layout.batches)
        wake(self._layout)
        return batch

    def cancel_asked_at(self, batch_id: str) -> float | None:
        """When it was asked to be cancelled, in seconds since the epoch."""
        status = status_of(self._path(batch_id, ".cancel"))
        return None if status is None else status.st_mtime

    def shown(self, batch_id: str) -> ShownCounts:
        """The counts that clients were shown last."""
        try:
            return msgspec.json.decode(read_file(self._path(batch_id, ".shown.json"), 1024), type=ShownCounts)
        except (FileNotFoundError, ValueError):
            return ShownCounts()

    def show(self, batch_id: str, counts: ShownCounts) -> None:
        """Show these from now on. Not flushed: after a power cut they are counted again."""
        with storage_faults(f"the counts of batch {batch_id} could not be recorded"):
            self._storage.replace(self._path(batch_id, ".shown.json"), msgspec.json.encode(counts), durable=False)

    def uses(self, file_id: str) -> str | None:
        """The open batch that reads this file, if one does."""
        for batch_id in self.open_names():
            batch = self.find(batch_id)
            if batch is not None and batch.input_file_id == file_id and batch.status not in OVER:
                return batch_id
        return None


def remove_result_files(layout: Layout, storage: Storage, batch_id: str) -> None:
    """Remove output and error file of a batch whose record goes too. Raises ``StorageFault``."""
    try:
        batch = ApiBatches(layout, storage).find(batch_id)
    except QueueError:
        return  # damaged: what it names is unknown, and expires or is deleted by itself
    store = FileStore(layout, storage)
    for file_id in () if batch is None else (batch.output_file_id, batch.error_file_id):
        if file_id is not None:
            store.remove(file_id)
