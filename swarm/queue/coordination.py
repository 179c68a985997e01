"""How the processes on one root find out about one another: locks, wake-ups, pauses.

* The kernel frees a lock at the instant of its holder's death. Locks are taken exclusively through ``filelock`` (flock), and
  looked at through a bare shared ``flock``, which disturbs no other looker.
* A process lock is held from start to death: held means alive, and nothing else does. Its file is never deleted.
* The wake-up file (``.bell``) is touched when work is added, and watched by idle loops through inotify. A hint only: where
  that is missing (other hosts on a shared file system), polling finds the work a period later.
* Pauses are one file, ``control/pauses.json``, replaced as a whole; workers and brain check it at the cost of a ``stat``.
"""

from __future__ import annotations

import ctypes
import fcntl
import logging
import os
import select
import struct
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import NamedTuple, Self

import msgspec

from swarm.core.lanes import Pauses
from swarm.errors import LockHeld, OddEntry, QueueError
from swarm.filesystem.durable import libc
from swarm.filesystem.entries import open_file, read_file, status_of
from swarm.queue.layout import Layout
from swarm.queue.storage import FILE_MODE, Storage, storage_faults

log = logging.getLogger(__name__)
# ruff: noqa: PLC0415  (filelock is imported by who takes a lock: most commands only look at some)
_POLL_S = 0.01
_MAX_PAUSES_BYTES = 4 << 20
GONE, THERE = 0x040 | 0x200, 0x080 | 0x100
"""Inotify's events to watch: moved out or deleted, moved in or created."""
_OVERFLOW, _IGNORED = 0x4000, 0x8000
_ATTRIB, _DONT_FOLLOW = 0x004, 0x2000000
_CLOSE_WRITE, _MOVED_TO = 0x008, 0x080
_HEAD = struct.Struct("iIII")


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


class NameEvent(NamedTuple):
    """A name that came to or left a watched directory."""

    watch: int
    name: str | None
    """None: events were lost (``watch`` is -1), or the directory itself was removed."""
    there: bool


class Inotify:
    """Events of watched files and directories. Raises ``OSError`` when made, where there is no inotify."""

    def __init__(self) -> None:
        self.fd = _checked(libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
        self.close = weakref.finalize(self, os.close, self.fd)

    @classmethod
    def opened(cls, watched: Mapping[str, int]) -> Self | None:
        """One that watches these paths, each for the events of its mask; None where that cannot be."""
        try:
            found = cls()
            for path, mask in watched.items():
                found.watch(path, mask)
        except OSError:
            return None
        return found

    def watch(self, path: str, mask: int) -> int:
        """Watch one more; its number in the events. Raises ``OSError``."""
        return _checked(libc.inotify_add_watch(self.fd, os.fsencode(path), mask))

    def events(self) -> Iterator[NameEvent]:
        """Events since the last call, in order. Never blocks."""
        while True:
            try:
                data = os.read(self.fd, 1 << 16)
            except BlockingIOError:
                return
            at = 0
            while at < len(data):
                watch, mask, _, size = _HEAD.unpack_from(data, at)
                name = data[at + _HEAD.size : at + _HEAD.size + size].rstrip(b"\0")
                at += _HEAD.size + size
                if mask & (_OVERFLOW | _IGNORED) or not name:
                    yield NameEvent(watch, None, there=False)
                else:
                    yield NameEvent(watch, os.fsdecode(name), there=bool(mask & THERE))


def _checked(answer: int) -> int:
    if answer < 0:
        failed = ctypes.get_errno()
        raise OSError(failed, os.strerror(failed))
    return answer


def wake(layout: Layout) -> None:
    """Wake all who wait on this root. Where the file cannot be touched (full or read-only disk) they poll a little later."""
    try:
        os.utime(layout.wakeup, follow_symlinks=False)
    except FileNotFoundError:
        with suppress(OSError, OddEntry):
            os.close(open_file(layout.wakeup, os.O_WRONLY | os.O_CREAT))
    except OSError:
        return  # polling finds the work a little later


class WakeUp:
    """One waiter per object; ``wake`` and ``wake_self`` may be called from any thread."""

    def __init__(self, layout: Layout, *, drop_ins: bool = False) -> None:
        """``drop_ins``: files put into ``pending`` itself wake it too."""
        self._layout = layout
        self._poll = select.poll()
        self._self_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._poll.register(self._self_fd, select.POLLIN)
        wake(layout)  # it makes the file
        pending = {layout.pending: _MOVED_TO | _CLOSE_WRITE} if drop_ins else {}
        self._inotify = Inotify.opened({layout.wakeup: _ATTRIB | _DONT_FOLLOW, **pending})
        if self._inotify is not None:
            self._poll.register(self._inotify.fd, select.POLLIN)

    @property
    def fd(self) -> int | None:
        """The inotify descriptor, for loops that wait on other things too; None without inotify."""
        return None if self._inotify is None else self._inotify.fd

    @property
    def self_fd(self) -> int:
        """The descriptor that ``wake_self`` makes readable."""
        return self._self_fd

    def wake(self) -> None:
        """Wake all who wait on this root."""
        wake(self._layout)

    def wake_self(self) -> None:
        """Make this object's own ``wait`` return at once. Async-signal-safe enough for a Python signal handler."""
        os.eventfd_write(self._self_fd, 1)

    def wait(self, timeout_s: float) -> bool:
        """Wait for a wake-up; False after ``timeout_s``."""
        ready = self._poll.poll(max(0.0, timeout_s) * 1000)
        for fd, _ in ready:
            _empty(fd)
        return bool(ready)

    def drain(self) -> None:
        """Forget the wake-ups received so far."""
        for fd in (self._self_fd, self.fd):
            if fd is not None:
                _empty(fd)

    def close(self) -> None:
        """Close the descriptors."""
        os.close(self._self_fd)
        if self._inotify is not None:
            self._inotify.close()


def _empty(fd: int) -> None:
    with suppress(BlockingIOError):
        os.read(fd, 65536)


class PauseBook:
    """Follows the file of pauses."""

    def __init__(self, layout: Layout) -> None:
        self._path = layout.pauses
        self._stamp: tuple[int, int, int] | None = None
        self._known = Pauses()

    def read(self) -> Pauses:
        """What is paused now. A damaged file changes nothing, and is logged once. Raises ``OSError``: then ask again."""
        status = status_of(self._path)
        if status is None:
            self._stamp, self._known = None, Pauses()
            return self._known
        stamp: tuple[int, int, int] | None = (status.st_ino, status.st_mtime_ns, status.st_size)
        if stamp != self._stamp:
            try:
                self._known = _load_pauses(self._path)
            except FileNotFoundError:
                stamp, self._known = None, Pauses()
            except QueueError as problem:
                log.warning("%s; only the pauses read before stay in force", problem.message)
            self._stamp = stamp
        return self._known


def change_pauses(layout: Layout, storage: Storage, to: Callable[[Pauses], Pauses]) -> Pauses:
    """Change what is paused and wake everybody; one at a time. Raises ``QueueError`` (a damaged file), ``StorageFault``."""
    with storage_faults("the pause could not be recorded"):
        storage.make_dir(os.path.dirname(layout.pauses))
        with exclusive(storage, f"{layout.pauses}.lock"):
            try:
                before = _load_pauses(layout.pauses)
            except FileNotFoundError:
                before = Pauses()
            after = to(before)
            if after != before:
                storage.replace(layout.pauses, msgspec.json.format(msgspec.json.encode(after)) + b"\n", durable=True)
    wake(layout)
    return after


def _load_pauses(path: str) -> Pauses:
    try:
        return msgspec.json.decode(read_file(path, _MAX_PAUSES_BYTES), type=Pauses)
    except (ValueError, RecursionError) as exc:
        raise QueueError(f"{path} is damaged: {exc}", hint="remove it, then pause again") from exc
