"""What a worker's card has shown for its models: ``workers/<name>.slots.json``, read at the worker's start.

* One writer, the worker under its process lock. Replaced whole, unflushed: without it the slots are found anew.
* A file that is damaged, or of another format, is ignored with a log line and replaced at the next change.
"""

from __future__ import annotations

import logging
import threading

import msgspec

from swarm.clock import now_iso
from swarm.core.policy.slot_capacity import SlotRecord, record_of
from swarm.errors import StorageFault
from swarm.filesystem.entries import read_file
from swarm.queue.layout import Layout
from swarm.queue.storage import Storage, storage_faults

FORMAT = 1
MOST_RECORDS = 200
"""The oldest go first."""
_MAX_BYTES = 1 << 20
log = logging.getLogger(__name__)


class _File(msgspec.Struct, frozen=True, kw_only=True):
    format: int
    records: tuple[SlotRecord, ...] = ()


class SlotBook:
    """Fits the ``SlotMemory`` port. Thread-safe."""

    def __init__(self, layout: Layout, storage: Storage, worker: str) -> None:
        self._path = layout.slots(worker)
        self._storage = storage
        self._changing = threading.Lock()
        self._refused = False
        self._records = self._read()

    @property
    def records(self) -> tuple[SlotRecord, ...]:
        """All that is known, the newest last."""
        return self._records

    def keep(self, record: SlotRecord) -> None:
        """Remember this instead of what was known of the same card, engine, model and length.

        A disk that refuses is logged once; then it is known until this process ends.
        """
        record = msgspec.structs.replace(record, written_at=now_iso())
        with self._changing:
            before = record_of(self._records, record)
            others = [one for one in self._records if one is not before]
            self._records = (*others, record)[-MOST_RECORDS:]
            content = msgspec.json.format(msgspec.json.encode(_File(format=FORMAT, records=self._records))) + b"\n"
            try:
                with storage_faults("the slots that were found cannot be written"):
                    self._storage.replace(self._path, content, durable=False)
            except StorageFault as fault:
                if not self._refused:
                    log.warning("%s; the next life of this worker finds them anew", fault.message)
                self._refused = True
            else:
                self._refused = False

    def _read(self) -> tuple[SlotRecord, ...]:
        try:
            found = msgspec.json.decode(read_file(self._path, _MAX_BYTES), type=_File)
        except FileNotFoundError:
            return ()
        except (OSError, ValueError, RecursionError) as error:
            log.warning("%s is ignored: %s; the slots are found anew", self._path, error)
            return ()
        if found.format != FORMAT:
            log.warning("%s is ignored: format %d, this release reads %d", self._path, found.format, FORMAT)
            return ()
        return found.records[-MOST_RECORDS:]
