"""Life locks: held from start to death, freed by the kernel at the instant of death. Held means alive; nothing else does.

Held through ``filelock`` (flock, its file is never deleted); looked at through a bare shared ``flock``, which is quick
and does not disturb other lookers.

The lock of a batch: one submitter at a time, and the purge of an empty batch, which takes the lock's file with it.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from filelock import FileLock, Timeout

from swarm.errors import LockHeld, OddEntry
from swarm.filesystem.entries import open_file
from swarm.queue.layout import Layout
from swarm.queue.storage.files import FILE_MODE, Storage, storage_faults


class LifeLock:
    """One holder's life lock. Keep the object for as long as the process lives; a child must not inherit it by fork."""

    def __init__(self, layout: Layout, name: str, describe: Callable[[], str] | None = None) -> None:
        self._lock = FileLock(layout.lock(name), mode=FILE_MODE, thread_local=False, fallback_to_soft=False)
        self._storage = Storage("fast", layout.root)
        self._name = name
        self._describe = describe

    def acquire(self, timeout_s: float = 1.0) -> None:
        """Take it, waiting a little for a looker or a recovery to finish. Raises ``LockHeld`` naming the holder."""
        try:
            with storage_faults(f"cannot take the process lock of {self._name}"):
                self._storage.make_way(self._lock.lock_file)
                self._lock.acquire(timeout=timeout_s, poll_interval=0.02)
        except Timeout as exc:
            holder = f" ({self._describe()})" if self._describe else ""
            raise LockHeld(f"{self._name} is running already{holder}", hint="`swarm status` shows it") from exc

    def try_acquire(self) -> bool:
        """Take it now or not at all."""
        try:
            with storage_faults(f"cannot take the process lock of {self._name}"):
                self._storage.make_way(self._lock.lock_file)
                self._lock.acquire(timeout=0)
        except Timeout:
            return False
        return True

    def release(self) -> None:
        """Give it back."""
        self._lock.release(force=True)


@storage_faults("cannot look at a life lock")
def is_held(layout: Layout, name: str) -> bool:
    """Whether the process of this name lives: its lock cannot be shared now. Without a lock file it never lived."""
    try:
        fd = open_file(layout.lock(name), os.O_RDWR)
    except (FileNotFoundError, OddEntry):
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


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
