"""Files of the HTTP API, in ``files/``: what clients have uploaded, and what their batches have given.

* ``files/<id>/content`` has the bytes as they came, ``files/<id>/file.json`` the record.
* A file is made in ``.staging/<id>.<pid>/``, flushed, and moved in with one rename; it goes the other way. So it is there
  whole or not at all, and what a death leaves is cleared like a submission that was cut off.
* Ids sort by the time at which they were made, and cannot be guessed.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO

import msgspec

from swarm.errors import OddEntry, QueueError
from swarm.filesystem.entries import folder_status, list_names, open_file, read_file
from swarm.queue.layout import Layout, new_id
from swarm.queue.storage import FILE_MODE, Storage, storage_faults, write_all

_TIME_CHARS = 12
_MAKE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
is_file_id = re.compile(r"file-[0-9a-z]{12}[0-9a-f]{24}").fullmatch
_RECORD_BYTES = 1 << 16
CONTENT = "content"
RECORD = "file.json"


def sortable_id(prefix: str) -> str:
    """An id that sorts by its time among those of the same prefix, and that cannot be guessed."""
    return f"{prefix}{new_id()[:_TIME_CHARS]}{secrets.token_hex(12)}"


class FileRecord(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """``file.json``."""

    id: str
    filename: str
    """As the client named it; never part of a path."""
    bytes: int
    purpose: str
    created_at: int
    """Seconds since the epoch, like all times here."""
    expires_at: int | None = None
    client: str = ""
    """Whose token uploaded it, or created the batch that gave it."""
    batch_id: str | None = None
    """The batch that gave it; None for an uploaded one."""

    def expired(self, now_s: float) -> bool:
        """Whether it is to be had no longer."""
        return self.expires_at is not None and self.expires_at <= now_s


class Incoming:
    """A file that is being written. Nobody sees it before ``publish``. Every method may raise ``StorageFault``."""

    def __init__(self, layout: Layout, storage: Storage, file_id: str) -> None:
        self._storage = storage
        self._target = f"{layout.files}/{file_id}"
        self._home = f"{layout.staging}/{new_id()}.{os.getpid()}"
        self.file_id = file_id
        self.size = 0
        with storage_faults("the file was not accepted"):
            storage.make_dir(self._home)
            try:
                self._fd = os.open(f"{self._home}/{CONTENT}", _MAKE, FILE_MODE)
            except OSError:
                shutil.rmtree(self._home, ignore_errors=True)
                raise

    @storage_faults("the file was not accepted")
    def write(self, data: bytes) -> None:
        """Append to its content."""
        write_all(self._fd, data, self.size)
        self.size += len(data)

    @storage_faults("the file was not accepted")
    def publish(self, record: FileRecord) -> None:
        """Make it durable and let it appear under its id."""
        self._storage.flush(self._fd)
        text = msgspec.json.format(msgspec.json.encode(record), indent=2) + b"\n"
        self._storage.write_new(f"{self._home}/{RECORD}", text)
        self._storage.flush(self._home)
        self._storage.make_dir(os.path.dirname(self._target))
        self._storage.move(self._home, self._target)

    def close(self) -> None:
        """Remove what was not published."""
        os.close(self._fd)
        shutil.rmtree(self._home, ignore_errors=True)


class FileStore:
    """All files of one root."""

    def __init__(self, layout: Layout, storage: Storage) -> None:
        self._layout = layout
        self._storage = storage

    @contextmanager
    def incoming(self, file_id: str | None = None) -> Iterator[Incoming]:
        """A file to be written within the block; what is not published at its end is removed. Raises ``StorageFault``."""
        new = Incoming(self._layout, self._storage, file_id or sortable_id("file-"))
        try:
            yield new
        finally:
            new.close()

    @storage_faults("the files cannot be listed")
    def names(self) -> list[str]:
        """All ids, the oldest first. Reads names only."""
        return sorted(name for name in list_names(self._layout.files) if is_file_id(name))

    def find(self, file_id: str) -> FileRecord | None:
        """The record; None for an unknown or expired one. Raises ``QueueError`` for a damaged one, ``StorageFault``."""
        found = self.stored(file_id)
        return None if found is None or found.expired(time.time()) else found

    def stored(self, file_id: str) -> FileRecord | None:
        """The same, of an expired one too."""
        if not is_file_id(file_id):
            return None
        path = f"{self._layout.files}/{file_id}/{RECORD}"
        with storage_faults(f"file {file_id} cannot be read"):
            try:
                return msgspec.json.decode(read_file(path, _RECORD_BYTES), type=FileRecord)
            except FileNotFoundError:
                return None
            except ValueError as exc:
                hint = "delete the file, and upload it again"
                raise QueueError(f"the record of file {file_id} is damaged: {exc}", hint=hint) from exc

    def content_path(self, file_id: str) -> str:
        """Where the content of a file lies that ``find`` has found."""
        assert is_file_id(file_id)
        return f"{self._layout.files}/{file_id}/{CONTENT}"

    def open_content(self, file_id: str) -> BinaryIO | None:
        """Its content, opened; None when it is not there (any more). Raises ``StorageFault``."""
        with storage_faults(f"file {file_id} cannot be read"):
            try:
                return os.fdopen(open_file(self.content_path(file_id)), "rb")
            except (FileNotFoundError, OddEntry):
                return None

    def remove(self, file_id: str) -> bool:
        """Remove a file; False: there is none. Raises ``StorageFault``."""
        place = f"{self._layout.files}/{file_id}"
        if not is_file_id(file_id) or folder_status(place) is None:
            return False
        aside = f"{self._layout.staging}/{new_id()}.{os.getpid()}"
        with storage_faults(f"file {file_id} could not be removed"), suppress(FileNotFoundError):
            self._storage.move(place, aside, flush=False)
            self._storage.flush(self._layout.files)
            shutil.rmtree(aside, ignore_errors=True)
            return True
        return False
