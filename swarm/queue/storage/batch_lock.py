"""The lock of a batch: one submitter at a time, and the purge of an empty batch, which takes the lock's file with it."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from swarm.errors import LockHeld
from swarm.queue.storage.files import Storage


@contextmanager
def alone(storage: Storage, path: str, batch_id: str) -> Iterator[None]:
    """Hold the lock at ``path`` within the block; the kernel frees it at death. Raises ``LockHeld``, ``OSError``."""
    fd = _locked(storage, path, batch_id)
    try:
        yield
    finally:
        os.close(fd)


def _locked(storage: Storage, path: str, batch_id: str) -> int:
    while True:
        fd = storage.open_own(path, os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            os.close(fd)
            raise LockHeld(f"batch {batch_id} is being submitted by another process", hint="wait for it to end") from exc
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(fd), os.lstat(path)):
                return fd
        os.close(fd)  # the empty batch of this name was purged together with its lock: take the new one
