"""The queue root: created and checked when opened.

* Refused is a root that others could write to or replace, and one whose file system cannot hold a queue.
* What the queue needs of the file system is tried, in a directory that is removed after: some 30 calls and no flush; with
  ``whole`` also one flush of each kind, and an inotify descriptor for a moment.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import pwd
import re
import shutil
import stat
from collections.abc import Callable
from contextlib import suppress

from swarm.core.doctor.root_check import Check, RootProbe, first_missing, judge
from swarm.errors import QueueError, StorageFault
from swarm.filesystem.durable import place_of, sync_file_system
from swarm.filesystem.entries import status_of
from swarm.filesystem.ownership import doubts_on_the_way
from swarm.plain_text import one_line
from swarm.queue.coordination import THERE, Inotify
from swarm.queue.layout import Layout, new_id
from swarm.queue.storage import DIR_MODE, FILE_MODE, Storage, rename_new, storage_faults

log = logging.getLogger(__name__)
_FILE_NAME = re.compile(r".*\.(json|jsonl|lock|log|err)(\.[0-9]+)?|counts", re.DOTALL).fullmatch
"""Names of our files in the flat directories."""
_OTHER = "move it away or choose another --root"
_OWNER = "run this as the user of the swarm (`sudo -u USER swarm …`), or choose another --root"


def prepare(layout: Layout, storage: Storage) -> None:
    """Make what is missing; check owners, modes and what the file system can do. Safe to run at once twice.

    What lies under a name that a process of ours will write to, and is no file, is quarantined.
    Raises ``QueueError``, ``StorageFault``.
    """
    _check_way(layout.root)
    with storage_faults(f"cannot set up the queue root {layout.root}"):
        fresh = not os.path.lexists(layout.root)
        _make_top(layout)
        try:
            self_test(layout, storage, whole=not exists(layout))  # its directories are flushed as they are made
        except QueueError:
            if fresh:
                with suppress(OSError):
                    os.rmdir(layout.staging)
                    os.rmdir(layout.root)
            raise
        for path in layout.directories():
            if path != layout.root:
                if status_of(path) is None:
                    storage.make_dir(path)
                _check(path, os.lstat(path))
    for folder in (layout.workers, layout.heartbeats, layout.logs, layout.control, layout.sessions):
        _clear_ways(storage, folder)


def self_test(layout: Layout, storage: Storage, *, whole: bool) -> tuple[Check, ...]:
    """What this root's file system can do. ``whole``: with a flush of each kind, which takes milliseconds.

    Raises ``QueueError`` if something is missing for which nothing else can be done, ``StorageFault`` if the disk is in
    trouble and may do it later.
    """
    answers = probe(layout.staging, whole=whole)
    checks = judge(answers, place=lambda: place_of(layout.root), full=storage.full)
    missing = first_missing(checks)
    if missing is not None:
        refusal = StorageFault if answers.troubled else QueueError
        raise refusal(f"no queue can be kept at {layout.root}: {missing.text}", hint=missing.next)
    return checks


def exists(layout: Layout) -> bool:
    """Whether there is a queue at this root."""
    return os.path.isdir(layout.pending)


def check_readable(root: str) -> bool:
    """Whether there is a directory. Raises ``QueueError`` where this user may not look into it: it would seem empty."""
    try:
        is_there = stat.S_ISDIR(os.stat(root).st_mode)
        inside = [path for path in (root, Layout(root).pending) if os.path.lexists(path)]
    except PermissionError:
        is_there, inside = True, []
    except OSError:
        return False
    if inside and all(os.access(path, os.R_OK | os.X_OK) for path in inside):
        return is_there
    owner = f": it belongs to user {_user(os.stat(root).st_uid)}" if inside else ""
    raise QueueError(f"{root} cannot be read by user {_user(os.geteuid())}{owner}", hint=_OWNER)


def _user(uid: int) -> str:
    """Their name where they have one."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _clear_ways(storage: Storage, folder: str) -> None:
    with storage_faults(f"cannot look into {folder}"), os.scandir(folder) as entries:
        odd = [e.path for e in entries if not (e.is_file(follow_symlinks=False) or _is_plain_folder(e))]
    for path in odd:
        try:
            with storage_faults(f"{one_line(path)} is no file or directory of swarm and cannot be moved to corrupt/"):
                storage.make_way(path)
        except StorageFault as fault:
            log.warning("%s", fault)


def _is_plain_folder(entry: os.DirEntry[str]) -> bool:
    return entry.is_dir(follow_symlinks=False) and _FILE_NAME(entry.name) is None


def _make_top(layout: Layout) -> None:
    """The root and a place to try things in; directories above it are nobody else's to write to, whatever the umask."""
    missing, above = [], os.path.dirname(layout.root)
    while not os.path.lexists(above):
        missing.append(above)
        above = os.path.dirname(above)
    for path in reversed(missing):
        with suppress(FileExistsError):
            os.mkdir(path, 0o755)
    try:
        with suppress(FileExistsError):
            os.mkdir(layout.root, DIR_MODE)
    except NotADirectoryError as problem:
        raise QueueError(f"{above} is no directory", hint=_OTHER) from problem
    _check(layout.root, os.stat(layout.root))  # it may be a link: those on the way are nobody else's
    with suppress(FileExistsError):
        os.mkdir(layout.staging, DIR_MODE)
    _check(layout.staging, os.lstat(layout.staging))


def _check_way(root: str) -> None:
    """Whoever may rename a directory on the way could put a whole tree of theirs in the place of the queue."""
    doubt = next(iter(doubts_on_the_way(root)), None)
    if doubt is None:
        return
    elsewhere = "choose a root in a directory of your own with --root"
    raise QueueError(
        f"{doubt}: whoever can change it can replace {root} by another queue, and use the GPUs",
        hint=elsewhere if doubt.foreign else f"{doubt.mend}; or {elsewhere}",
    )


def _check(path: str, status: os.stat_result) -> None:
    if not stat.S_ISDIR(status.st_mode):
        raise QueueError(f"{path} is no directory", hint=_OTHER)
    if status.st_uid != os.geteuid():
        raise QueueError(f"{path} belongs to user {_user(status.st_uid)}", hint=_OWNER)
    if status.st_mode & 0o022:
        raise QueueError(
            f"{path} can be written to by others: whoever can put tasks there can use the GPUs",
            hint=f"chmod go-w {path}",
        )


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
            answers |= _all_of(_flushes, home) | {"notice": _answer(lambda: Inotify().watch(home, THERE))}
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
