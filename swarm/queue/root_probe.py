"""Tries under a queue root whatever the queue needs of its file system: files in a directory of their own, removed after.

Costs some 30 calls and no flush; with ``whole`` also one flush of each kind, and an inotify descriptor for a moment.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import shutil
from collections.abc import Callable

from swarm.core.doctor.root_check import RootProbe
from swarm.filesystem.durable import sync_file_system
from swarm.queue.ids import new_id
from swarm.queue.storage import inotify
from swarm.queue.storage.files import DIR_MODE, FILE_MODE, rename_new

_MAKE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def probe(folder: str, *, whole: bool, name: str = "") -> RootProbe:
    """What works in a directory of that file system. Never raises ``OSError``: each is an answer.

    Tried in a directory that is called like a submission under way, with ``name`` before it: what a death leaves of it
    is cleared in the same way.
    """
    home = f"{folder}/{name}{new_id()}.{os.getpid()}"
    answers: dict[str, int | bool | None] = {}
    try:
        answers["write"] = _answer(lambda: _write(home))
        if not answers["write"]:
            answers |= _all_of(_locks, f"{home}/file") | _all_of(_moves, home) | _names(home)
        if whole and not answers["write"]:
            answers |= _all_of(_flushes, home) | {"notice": _notice(home)}
        if whole:
            answers |= _all_of(_room, folder)
    finally:
        shutil.rmtree(home, ignore_errors=True)
    codes = {
        code for code in answers.values() if code is not None and not isinstance(code, bool) and code in errno.errorcode
    }
    return RootProbe(**answers, words={code: os.strerror(code) for code in codes})  # type: ignore[arg-type]


def _all_of(tries: Callable[[str], dict[str, int | bool | None]], path: str) -> dict[str, int | bool | None]:
    """Nothing where the files to try with cannot be had just now: no descriptor left, a full disk."""
    try:
        return tries(path)
    except OSError:
        return {}


def _answer(call: Callable[[], object]) -> int:
    try:
        call()
    except OSError as exc:
        return exc.errno or errno.EIO
    return 0


def _write(home: str) -> None:
    os.mkdir(home, DIR_MODE)
    fd = os.open(f"{home}/file", _MAKE, FILE_MODE)
    try:
        os.write(fd, b"{}\n")
    finally:
        os.close(fd)


def _locks(path: str) -> dict[str, int | bool | None]:
    first, second = (os.open(path, os.O_RDWR | os.O_CLOEXEC) for _ in range(2))
    try:
        taken = _answer(lambda: fcntl.flock(first, fcntl.LOCK_EX | fcntl.LOCK_NB))
        again = _answer(lambda: fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB))
        looked = _answer(lambda: fcntl.flock(second, fcntl.LOCK_SH | fcntl.LOCK_NB))
    finally:
        os.close(second)
        os.close(first)
    return {"lock": taken, "excludes": bool(again and looked)}


def _moves(home: str) -> dict[str, int | bool | None]:
    """Each with files of its own, so that one that fails does not decide about the next."""
    for name in ("new", "old", "kept", "linked"):
        os.close(os.open(f"{home}/{name}", _MAKE, FILE_MODE))
    os.mkdir(f"{home}/bucket", DIR_MODE)
    return {
        "rename": _answer(lambda: os.rename(f"{home}/bucket", f"{home}/b"))
        or _answer(lambda: os.rename(f"{home}/old", f"{home}/o")),
        "rename_new": _answer(lambda: rename_new(f"{home}/new", f"{home}/n")),
        "overwrites": _answer(lambda: rename_new(f"{home}/linked", f"{home}/kept")) == 0,
        "link": _answer(lambda: os.link(f"{home}/file", f"{home}/l")),
        "nameless": _answer(lambda: _nameless(home)),
    }


def _nameless(home: str) -> None:
    fd = os.open(home, os.O_WRONLY | os.O_TMPFILE | os.O_CLOEXEC, FILE_MODE)
    try:
        os.link(f"/proc/self/fd/{fd}", f"{home}/named", src_dir_fd=fd)
    finally:
        os.close(fd)


def _names(home: str) -> dict[str, int | bool | None]:
    try:
        longest: int | None = os.pathconf(home, "PC_NAME_MAX")
    except (OSError, ValueError):
        longest = None
    return {"name_bytes": longest, "folds_case": os.path.lexists(f"{home}/FILE")}


def _room(folder: str) -> dict[str, int | bool | None]:
    room = os.statvfs(folder)
    return {
        "free_kib": room.f_bavail * room.f_frsize >> 10,
        "free_inodes": room.f_favail if room.f_files else None,
    }


def _flushes(home: str) -> dict[str, int | bool | None]:
    file, folder = os.open(f"{home}/file", os.O_RDWR | os.O_CLOEXEC), os.open(home, os.O_RDONLY | os.O_CLOEXEC)
    try:
        by_itself = {"flush_file": _answer(lambda: os.fsync(file)), "flush_folder": _answer(lambda: os.fsync(folder))}
        needed = any(by_itself.values())
        # All may be much, if somebody else writes to that disk: where it is not needed, only whether there is such a call.
        all_of_it = _answer(lambda: sync_file_system(folder if needed else -1))
        return {**by_itself, "flush_all": 0 if all_of_it == errno.EBADF else all_of_it}
    finally:
        os.close(folder)
        os.close(file)


def _notice(home: str) -> int:
    fd = inotify.opened()
    if fd is None:
        return ctypes.get_errno() or errno.ENOSYS
    try:
        return 0 if inotify.add(fd, home, inotify.THERE) is not None else ctypes.get_errno() or errno.ENOSYS
    finally:
        os.close(fd)
