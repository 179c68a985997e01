"""Registrations and heartbeats of workers. Both are hints: only the process lock shows life."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import suppress

import msgspec

from swarm.core.task import ID_RE
from swarm.core.worker import Heartbeat, ProcessIdentity, WorkerRow
from swarm.errors import OddEntry, StorageFault
from swarm.filesystem.entries import folder_status, list_names, read_file
from swarm.queue.coordination import is_held
from swarm.queue.layout import Layout
from swarm.queue.storage import Storage, list_ids, storage_faults

_LIMIT_BYTES = 1 << 20
_rows = msgspec.json.Decoder(WorkerRow)
_beats = msgspec.json.Decoder(Heartbeat)
_encode = msgspec.json.Encoder().encode


@storage_faults("cannot read a registration")
def read_row(layout: Layout, name: str) -> WorkerRow | None:
    """The registration of this name; None if there is none or it is unreadable (it is a hint)."""
    try:
        return _rows.decode(_read(layout.row(name)))
    except (FileNotFoundError, ValueError):
        return None


def living(layout: Layout) -> Iterator[WorkerRow]:
    """The registrations of the workers that live, by name."""
    return (row for name, row in sorted(rows(layout).items()) if is_held(layout, name))


@storage_faults("cannot read a heartbeat")
def read_heartbeat(layout: Layout, name: str) -> Heartbeat | None:
    """The last heartbeat of this name; None if there is none or it is unreadable."""
    try:
        return _beats.decode(_read(layout.heartbeat(name)))
    except (FileNotFoundError, ValueError):
        return None


def _read(path: str) -> bytes:
    """A hint that cannot be read counts as missing; a disk that fails altogether shows elsewhere."""
    try:
        return read_file(path, _LIMIT_BYTES)
    except OSError as exc:
        if exc.errno == errno.EIO:
            raise OddEntry(path, f"cannot be read: {exc.strerror}") from exc
        raise


def has_worked(layout: Layout, name: str, process: ProcessIdentity) -> bool:
    """Whether that very process ran a tick of its loop, by row and heartbeat. False where the disk does not say."""
    try:
        row, beat = read_row(layout, name), read_heartbeat(layout, name)
    except StorageFault:
        return False
    return row is not None and beat is not None and row.process == process and beat.epoch == row.epoch and beat.turn > 0


def next_epoch(layout: Layout, name: str) -> int:
    """The epoch of the process that starts now; call it under the process lock."""
    row = read_row(layout, name)
    return 1 if row is None else row.epoch + 1


def register(layout: Layout, storage: Storage, row: WorkerRow) -> None:
    """Write a registration durably, under the process lock. Raises ``StorageFault``."""
    with storage_faults(f"cannot register {row.name}"):
        storage.replace(layout.row(row.name), _encode(row), durable=True)


def rows(layout: Layout, role: str = "worker") -> dict[str, WorkerRow]:
    """All rows of one role, by name."""
    ids = list_ids(layout.workers)
    return {row.name: row for name in ids if (row := read_row(layout, name)) is not None and row.role == role}


def names(layout: Layout, role: str = "worker") -> tuple[str, ...]:
    """Names of all registrations of one role, sorted."""
    return tuple(sorted(rows(layout, role)))


def holders(layout: Layout) -> list[str]:
    """Names of the directories in ``processing`` that may be workers', unsorted."""
    names = (name for name in list_names(layout.processing) if ID_RE.fullmatch(name))
    return [name for name in names if folder_status(layout.held_by(name)) is not None]


class FileHeartbeats:
    """Fits the ``HeartbeatSink`` port."""

    def __init__(self, layout: Layout, storage: Storage) -> None:
        self._layout = layout
        self._storage = storage

    def beat(self, heartbeat: Heartbeat) -> None:
        """Replace the heartbeat file, unflushed: it says nothing after a power cut anyway. Raises ``StorageFault``."""
        with storage_faults(f"cannot write the heartbeat of {heartbeat.name}"):
            self._storage.replace(self._layout.heartbeat(heartbeat.name), _encode(heartbeat), durable=False)


def forget(layout: Layout, name: str) -> None:
    """Remove what is known of a worker that will not come back. Its lock file stays, as lock files must."""
    for path in (layout.row(name), layout.heartbeat(name), layout.slots(name)):
        with suppress(FileNotFoundError):
            os.unlink(path)
