"""Atomic replacement of files through temporary files that are locked while written.

* They are called ``.<n>.new``, and a directory has only a few of these names.
* Locked (flock) means being written; unlocked means that its writer is dead, since the kernel releases its lock.
* The next writer in that directory takes over an unlocked one: kills leave at most as many as were written at one moment.
* Nobody renames, empties or removes one without its lock, nor before seeing that the name still means the locked file.

``write_note`` and ``read_note`` are for small JSON files that outlive the process that wrote them.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import msgspec

from swarm.errors import OddEntry
from swarm.filesystem.durable import NOT_THERE, sync_fd
from swarm.filesystem.entries import is_file, odd_words, open_file, read_file, status_of

MOST = 1000
_NOTE_BYTES = 1 << 20
_NAME = re.compile(r"\.[0-9]{1,3}\.new").fullmatch
_NO_LOCKS = NOT_THERE | {errno.ENOLCK}
"""What ``flock`` answers on a file system without locks. A queue root has them; the directory of an output may not."""
T = TypeVar("T")


def take(folder: str, stem: str = "", mode: int = 0o600) -> tuple[int, str]:
    """An empty temporary file in ``folder``, locked, as descriptor and path: ``.<n>.new``, or ``.<stem>.<n>.new``.

    The caller fills it, renames or removes it, and closes the descriptor after that. Raises ``OSError``.
    """
    dotted = f".{stem}." if stem else "."
    for number in range(MOST):
        path = f"{folder}/{dotted}{number}.new"
        fd = _try(path, mode)
        if fd is not None:
            return fd, path
    raise FileExistsError(errno.EEXIST, "too many unfinished files", f"{folder}/{dotted}*.new")


@contextmanager
def replacement(path: str, *, durable: bool, stem: str = "", mode: int = 0o600) -> Iterator[int]:
    """The descriptor of an empty file that takes the place of ``path`` when the block ends well; else nothing changes.

    ``durable``: flushed before the rename; its directory is not. Raises ``OSError``.
    """
    fd, beside = take(os.path.dirname(path), stem, mode)
    try:
        yield fd
        if durable:
            sync_fd(fd)
        os.rename(beside, path)
    except BaseException:
        discard(beside, fd)
        raise
    os.close(fd)  # its lock goes with it: only now, in its place


def is_temporary(name: str) -> bool:
    """Whether a file name is one of these, without a stem."""
    return _NAME(name) is not None


def is_left(path: str) -> bool:
    """Whether it exists and no writer holds its lock."""
    fd = _lock(path)
    if fd is None:
        return False
    os.close(fd)
    return True


def remove_left(path: str) -> bool:
    """Remove it if no writer holds its lock. Raises ``OSError``."""
    fd = _lock(path)
    if fd is None:
        return False
    try:
        os.unlink(path)
    finally:
        os.close(fd)
    return True


def discard(path: str, fd: int) -> None:
    """Give up one that was taken; what cannot be removed now is taken over by the next writer."""
    with suppress(OSError):
        os.unlink(path)
    os.close(fd)


def _try(path: str, mode: int) -> int | None:
    """Make or take over this one; None: it is being written, or no file."""
    while True:
        try:
            fd = open_file(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, mode)
        except FileExistsError:
            if (found := _lock(path)) is None:
                if status_of(path) is None:
                    continue  # put in place or removed this moment
                return None
            os.ftruncate(found, 0)
            return found
        try:
            if _locked(fd, path) is not False:
                return fd  # also without locks: it was made by us
        except OSError:
            os.close(fd)
            raise
        os.close(fd)  # swept away, or taken over, before it was locked


def _lock(path: str) -> int | None:
    """Open and lock an existing one; None: it is locked, missing, or no file, or nothing can be locked here.

    Network file systems lock only what is open for writing.
    """
    try:
        fd = open_file(path, os.O_RDWR)
    except (FileNotFoundError, OddEntry):
        return None
    try:
        locked = _locked(fd, path)
    except OSError:
        os.close(fd)
        raise
    if locked:
        return fd
    os.close(fd)
    return None


def _locked(fd: int, path: str) -> bool | None:
    """Lock it; whether it is ours now and still has its name. None: there are no locks here."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as exc:
        if exc.errno in _NO_LOCKS:
            return None
        raise
    there, here = status_of(path), os.fstat(fd)
    return there is not None and (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)


def write_note(path: Path, note: msgspec.Struct | tuple[msgspec.Struct, ...]) -> None:
    """Replace the file by a rename, so that a reader sees the old or the new one, whole. Mode 0600. Not flushed.

    After a power cut the processes that it describes have ended too. One writer per path. Raises ``OSError``.
    """
    with replacement(str(path), durable=False) as fd:
        with os.fdopen(fd, "wb", closefd=False) as file:
            file.write(msgspec.json.encode(note))
        if words := odd_words(str(path)):
            raise OSError(errno.EEXIST, words, str(path))  # the rename would remove it


def read_note(path: Path, kind: type[T]) -> T | None:
    """The note, or None if there is none or it is unreadable: it is a hint, checked against the kernel by its reader."""
    try:
        return msgspec.json.decode(read_file(str(path), _NOTE_BYTES), type=kind)
    except (OSError, ValueError, msgspec.MsgspecError):  # an odd entry is a ValueError
        return None


def remove_note(path: Path) -> None:
    """Remove it; harmless if it is missing. Only a regular file is removed."""
    if is_file(str(path)):
        path.unlink(missing_ok=True)
