"""Sees every file call under a queue root and can kill the process, or fail the call, at the k-th of them.

The calls are the names that ``swarm.queue`` looks up in ``os`` at each use, and those that ``storage`` and ``disk``
make by libc, so the code under test runs as it is. Flushes are seen, counted and left out: they change nothing that a kill
could show.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from swarm.filesystem import durable as disk
from swarm.queue import storage
from tests.helpers.forked import forked

PATH_CALLS = ("rename", "replace", "link", "unlink", "mkdir", "rmdir", "listdir")
FD_CALLS = ("pwrite", "write", "pwritev", "ftruncate", "fsync")
WRITES = ("pwrite", "write", "pwritev")


class Call(NamedTuple):
    """One file call: its name, the path it is about, and for renames the other one."""

    name: str
    path: str
    other: str = ""
    data: bytes = b""
    offset: int = 0
    made: bool = False
    """An ``open`` that may make the file."""
    durable: bool = False
    """A write that is on the disk at its return."""

    @property
    def mutating(self) -> bool:
        """Whether dying before it may leave something other than dying before the next call."""
        return self.made or self.name not in ("open", "listdir")


Hook = Callable[[Call], str | None]
"""Called before each call; ``"half"``: write only half and then call ``hook`` with ``half written``."""


class Intercepted:
    """Wrappers installed for a while; ``hook`` decides before each call under ``root``."""

    def __init__(self, root: str, hook: Hook) -> None:
        self._root = root
        self._hook = hook
        self._paths: dict[int, str] = {}
        self._durable: set[int] = set()
        self._real: dict[str, Any] = {n: getattr(os, n) for n in (*PATH_CALLS, *FD_CALLS, "open", "close")}
        self._libc = storage.libc, disk.libc

    def install(self) -> None:
        """From now on every call is seen."""
        for name in PATH_CALLS:
            setattr(os, name, self._path_call(name))
        for name in FD_CALLS:
            setattr(os, name, self._fd_call(name))
        os.open = self._open
        os.close = self._close
        storage.libc = disk.libc = _Libc(self)

    def remove(self) -> None:
        """As it was before."""
        for name, real in self._real.items():
            setattr(os, name, real)
        storage.libc, disk.libc = self._libc

    def _ours(self, path: object) -> str | None:
        text = os.fsdecode(path) if isinstance(path, (str, bytes)) else ""
        return text if text.startswith(self._root) else None

    def _path_call(self, name: str) -> Callable[..., Any]:
        real = self._real[name]

        def call(path: Any = ".", *rest: Any, **more: Any) -> Any:
            if name == "link" and (unnamed := self._paths.get(more.get("src_dir_fd", -1))) is not None:
                self._hook(Call(name, unnamed, rest[0]))
                done = real(path, *rest, **more)
                self._paths[more["src_dir_fd"]] = rest[0]
                return done
            if (ours := self._ours(path)) is not None:
                self._hook(Call(name, ours, self._ours(rest[0]) or "" if rest else ""))
            return real(path, *rest, **more)

        return call

    def _fd_call(self, name: str) -> Callable[..., Any]:
        real = self._real[name]

        def call(fd: int, *rest: Any) -> Any:
            path = self._paths.get(fd)
            if path is None:
                return real(fd, *rest)
            data = b"".join(map(bytes, rest[0])) if name == "pwritev" else bytes(rest[0]) if name in WRITES else b""
            offset = rest[-1] if name in ("pwrite", "pwritev", "ftruncate") else 0
            wish = self._hook(Call(name, path, data=data, offset=offset, durable=fd in self._durable))
            if name == "fsync":
                return None
            if wish == "half" and len(data) > 1:
                done = self._half(fd, name, data, rest[-1] if len(rest) > 1 else None)
                self._hook(Call("half written", path))
                return done
            return real(fd, *rest)

        return call

    def _half(self, fd: int, name: str, data: bytes, offset: int | None) -> int:
        """Write the first half, in whole blocks where the descriptor may take nothing else."""
        if name == "pwritev":
            size = len(data) // 2 // 512 * 512
            with mmap.mmap(-1, len(data)) as aligned, memoryview(aligned) as view, view[:size] as piece:
                aligned[:] = data
                return int(self._real["pwritev"](fd, [piece], offset))
        return int(self._real[name](fd, data[: len(data) // 2], *(() if offset is None else (offset,))))

    def _open(self, path: Any, flags: int, *rest: Any, **more: Any) -> int:
        ours = self._ours(path)
        if ours is not None and flags & os.O_TMPFILE == os.O_TMPFILE:
            ours = f"{ours}/#{len(self._paths)}"  # it has no name; by this one it is told of
            self._hook(Call("open", ours, made=True))
        elif ours is not None:
            self._hook(Call("open", ours, made=bool(flags & os.O_CREAT)))
        fd: int = self._real["open"](path, flags, *rest, **more)
        if ours is not None:
            self._paths[fd] = ours
            if flags & os.O_DSYNC:
                self._durable.add(fd)
        return fd

    def _close(self, fd: int) -> None:
        self._paths.pop(fd, None)
        self._durable.discard(fd)
        self._real["close"](fd)

    def libc_call(self, call: Call, act: Callable[[], int]) -> int:
        """A call through libc: errors go out as -1 and errno, as there."""
        try:
            self._hook(call)
        except OSError as exc:
            ctypes.set_errno(exc.errno or errno.EIO)
            return -1
        return act()

    def path_of(self, fd: int) -> str:
        """What a descriptor was opened for."""
        return self._paths.get(fd, "")


class _Libc:
    def __init__(self, seen: Intercepted) -> None:
        self._seen = seen
        self._real = storage.libc

    def renameat2(self, from_fd: int, source: bytes, to_fd: int, target: bytes, flags: Any) -> int:
        call = Call("rename_new", os.fsdecode(source), os.fsdecode(target))
        done: int = self._seen.libc_call(call, lambda: self._real.renameat2(from_fd, source, to_fd, target, flags))
        return done

    def syncfs(self, fd: int) -> int:
        return self._seen.libc_call(Call("syncfs", self._seen.path_of(fd)), lambda: 0)


@contextmanager
def watched(root: str, hook: Hook) -> Iterator[None]:
    """Every file call under ``root`` goes past ``hook`` within the block."""
    seen = Intercepted(root, hook)
    seen.install()
    try:
        yield
    finally:
        seen.remove()


@contextmanager
def recorded(root: str) -> Iterator[list[Call]]:
    """The calls made within the block."""
    calls: list[Call] = []

    def note(call: Call) -> None:
        calls.append(call)

    with watched(root, note):
        yield calls


def killer(k: int, *, half: bool = False) -> Hook:
    """Dies before the mutating call number ``k`` (from 0), or in the middle of it if it writes."""
    count = -1

    def hook(call: Call) -> str | None:
        nonlocal count
        if call.name == "half written":
            os.kill(os.getpid(), signal.SIGKILL)
        if not call.mutating:
            return None
        count += 1
        if count != k:
            return None
        if half and call.name in WRITES:
            return "half"
        os.kill(os.getpid(), signal.SIGKILL)
        return None

    return hook


FAULTS: dict[str, tuple[int, Callable[[Call], bool]]] = {
    "ENOSPC": (errno.ENOSPC, lambda c: c.made or c.name in (*WRITES, "mkdir", "link")),
    "EIO": (errno.EIO, lambda c: True),
    "EROFS": (errno.EROFS, lambda c: c.mutating and c.name not in ("fsync", "syncfs")),
    "EMFILE": (errno.EMFILE, lambda c: c.name in ("open", "listdir")),
}
"""What fails, and which calls it can hit."""


def failing(fault: str, k: int, *, lasting: bool) -> Hook:
    """The call number ``k`` (from 0, of those the fault can hit) fails; ``lasting``: all later ones too."""
    number, hits = FAULTS[fault]
    count = -1

    def hook(call: Call) -> None:
        nonlocal count
        if call.name == "half written" or not hits(call):
            return
        count += 1
        if count == k or (lasting and count > k):
            raise OSError(number, os.strerror(number), call.path)

    return hook


def short_writer(k: int) -> Hook:
    """The write number ``k`` writes half; the caller must write the rest."""
    count = -1

    def hook(call: Call) -> str | None:
        nonlocal count
        if call.name not in WRITES:
            return None
        count += 1
        return "half" if count == k else None

    return hook


def dies(act: Callable[[], None]) -> bool:
    """Run ``act`` in a forked child; True: it was killed, False: it came through. An exception in it is raised here."""
    return forked(act) < 0
