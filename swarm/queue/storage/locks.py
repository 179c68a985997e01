"""File locks, which the kernel frees at the instant of their holder's death.

* Taken exclusively through ``filelock`` (flock); looked at through a bare shared ``flock``, which disturbs no other looker.
* A process lock is held from start to death: held means alive, and nothing else does. Its file is never deleted.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from swarm.errors import LockHeld, OddEntry
from swarm.filesystem.entries import open_file
from swarm.queue.layout import Layout
from swarm.queue.storage.files import FILE_MODE, Storage, storage_faults

# ruff: noqa: PLC0415  (filelock is imported by who takes a lock: most commands only look at some)
_POLL_S = 0.01


class ProcessLock:
    """One holder's lock. Keep the object for as long as the process lives; a child must not inherit it by fork."""

    def __init__(self, layout: Layout, name: str, describe: Callable[[], str] | None = None) -> None:
        from filelock import FileLock

        self._lock = FileLock(layout.lock(name), mode=FILE_MODE, thread_local=False, fallback_to_soft=False)
        self._storage = Storage("fast", layout.root)
        self._name = name
        self._describe = describe

    def acquire(self, timeout_s: float = 1.0) -> None:
        """Take it, waiting a little for a looker or a recovery to finish. Raises ``LockHeld`` naming the holder."""
        if not self.try_acquire(timeout_s):
            holder = f" ({self._describe()})" if self._describe else ""
            raise LockHeld(f"{self._name} is running already{holder}", hint="`swarm status` shows it")

    def try_acquire(self, timeout_s: float = 0.0) -> bool:
        """Take it; False if another holds it all the time."""
        from filelock import Timeout

        try:
            with storage_faults(f"cannot take the process lock of {self._name}"):
                self._storage.make_way(self._lock.lock_file)
                self._lock.acquire(timeout=timeout_s, poll_interval=0.02)
        except Timeout:
            return False
        return True

    def release(self) -> None:
        """Release it."""
        self._lock.release(force=True)


@storage_faults("cannot look at a process lock")
def is_held(layout: Layout, name: str) -> bool:
    """Whether the process of this name lives. Without a lock file it never ran."""
    return is_locked(layout.lock(name))


def is_locked(path: str) -> bool:
    """Whether somebody holds the lock at ``path``: it cannot be shared now. Raises ``OSError``."""
    try:
        fd = open_file(path, os.O_RDWR)
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
def exclusive(storage: Storage, path: str) -> Iterator[None]:
    """Hold the lock at ``path`` within the block; waits for it. Raises ``OSError``."""
    from filelock import lock_descriptor

    fd = storage.open_own(path, os.O_RDWR | os.O_CREAT)
    try:
        lock_descriptor(fd, poll_interval=_POLL_S)
        yield
    finally:
        os.close(fd)


@contextmanager
def try_exclusive(storage: Storage, path: str, held: LockHeld) -> Iterator[None]:
    """The same without waiting: raises ``held`` while another process has it. Its file may be purged by its holder."""
    fd = _locked(storage, path, held)
    try:
        yield
    finally:
        os.close(fd)


def _locked(storage: Storage, path: str, held: LockHeld) -> int:
    from filelock import lock_descriptor

    while True:
        fd = storage.open_own(path, os.O_RDWR | os.O_CREAT)
        if not lock_descriptor(fd, blocking=False):
            os.close(fd)
            raise held
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(fd), os.lstat(path)):
                return fd
        os.close(fd)  # its last holder removed the file: take the new one
