"""The file calls that change the queue, with their flushes; all mutations go through here.

``durability = "full"`` flushes what a caller is told is done (file, then the directory that names it) before returning;
``"fast"`` leaves that to the kernel: everything still survives ``kill -9``, but not a power cut. A rename is durable on ext4
and xfs once either of its directories is flushed, so only the one that gains the name is; a journal-less file system
may then show the task in both places after a power cut, which the finishing move (no overwrite) and recovery settle.
"""

from __future__ import annotations

import ctypes
import errno
import logging
import os
import stat
import sys
from contextlib import ContextDecorator, suppress

import msgspec

from swarm.core.task import ID_RE
from swarm.errors import OddEntry, StorageFault
from swarm.filesystem import temporary
from swarm.filesystem.durable import NOT_THERE, SharedFlush, Target, libc, sync_file_system, sync_tree
from swarm.filesystem.entries import (
    folder_status,
    kind_words,
    list_names,
    odd_words,
    open_file,
    plain_name,
    status_of,
)
from swarm.plain_text import one_line

log = logging.getLogger(__name__)

FILE_MODE = 0o600
DIR_MODE = 0o700
_RENAME_NOREPLACE = 1
_AT_FDCWD = -100
_LACKS = "the file system, or a filter of system calls (a container's), does not support this: see `swarm doctor`"
_NO_LINK = (errno.EPERM, errno.EISDIR, errno.EACCES)
_HINTS = {
    errno.ENOSPC: "free some space; work resumes by itself",
    errno.EDQUOT: "the user's quota is used up; work resumes by itself when there is room",
    errno.EROFS: "the file system is read-only: see `dmesg`, remount it; work resumes by itself",
    errno.EIO: "the disk reports errors: see `dmesg`",
    errno.EMFILE: "too many open files in this process: raise `ulimit -n`",
    errno.ENFILE: "too many open files on this machine",
    errno.ENOMEM: "the kernel is out of memory",
    errno.EACCES: "the queue root belongs to another user",
    errno.EPERM: "it belongs to another user, or a filter of system calls (a container's) forbids it: see `swarm doctor`",
    **dict.fromkeys((errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL), _LACKS),
    **dict.fromkeys((errno.ESTALE, errno.ENOTCONN), "the file system has gone away: mount it again; work resumes by itself"),
}
_ANSWERS = (errno.ENOENT, errno.EEXIST, errno.ENOTEMPTY, errno.EAGAIN, errno.EINTR, errno.EPIPE)
"""What a file call may say of a queue that works."""
_ODD_PLACE = (
    "something is in the place of a file or directory of swarm: `swarm queue fsck` names it; or choose another --root"
)
_NO_WAY = (errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)
"""Of a rename without following: a directory on one of its paths is none."""
_TAKEN = (errno.EISDIR, errno.ENOTEMPTY, errno.EEXIST)
_NAME_BYTES = 100
"""Of a name in quarantine; cut in the middle of a character it may grow by this once more, and stays below 255."""
REASON = ".reason"
_MOST_NAMES = 10_000
_PATHS = (sys.getfilesystemencoding(), sys.getfilesystemencodeerrors())
libc.renameat2.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)


def about_host(fault: OSError) -> bool:
    """Whether an error is about the disk or the host, not about one entry that cannot be opened or moved."""
    return fault.errno in _HINTS and fault.errno not in (errno.EACCES, errno.EPERM)


class storage_faults(ContextDecorator):  # noqa: N801  # used as a word of the language, thousands of times a second
    """Turn ``OSError`` into ``StorageFault``; ENOENT, EEXIST and the like pass, they are answers."""

    __slots__ = ("_what",)

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None:
        return

    def __exit__(self, kind: object, fault: BaseException | None, trace: object) -> None:
        if not isinstance(fault, OSError) or fault.errno is None or fault.errno in _ANSWERS:
            return
        if fault.errno in _HINTS:
            raise StorageFault(f"{self._what}: {fault.strerror}", hint=_HINTS[fault.errno]) from fault
        where = f" ({one_line(os.fsdecode(fault.filename))})" if isinstance(fault.filename, str | bytes) else ""
        raise StorageFault(f"{self._what}: {fault.strerror}{where}", hint=_ODD_PLACE) from fault


def write_all(fd: int, data: bytes, offset: int) -> None:
    """Write all of ``data`` at ``offset``, however short the kernel's writes are."""
    written = os.pwrite(fd, data, offset)
    if written == len(data):
        return
    view = memoryview(data)[written:]
    while view:
        offset += written
        written = os.pwrite(fd, view, offset)
        view = view[written:]


def list_ids(folder: str) -> list[str]:
    """Ids of the documents in a directory, ``<id>.json``; unsorted. Raises ``OSError``."""
    return [name[:-5] for name in list_names(folder) if name.endswith(".json") and ID_RE.fullmatch(name[:-5])]


def _renameat2(source: str, target: str) -> int:
    """``renameat2(…, RENAME_NOREPLACE)``: 0, or the errno."""
    old, new = source.encode(*_PATHS), target.encode(*_PATHS)
    return ctypes.get_errno() if libc.renameat2(_AT_FDCWD, old, _AT_FDCWD, new, _RENAME_NOREPLACE) else 0


def rename_new(source: str, target: str) -> None:
    """Rename without overwriting, by the one call that can do so. Raises ``OSError``."""
    failed = _renameat2(source, target)
    if failed:
        raise OSError(failed, os.strerror(failed), source, None, target)


def _move_by_link(source: str, target: str) -> None:
    """The same in two steps, where the kernel or the file system cannot rename without overwriting.

    In between the file has both names; a power cut leaves them, and the finishing move and recovery settle it.
    """
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError as exc:
        if exc.errno not in _NO_LINK or _own_file(source):
            raise
        _move_odd(source, target)
        return
    try:
        os.unlink(source)
    except OSError:  # somebody else moved it on in between, or it may not be removed: then it is not moved
        with suppress(FileNotFoundError):
            os.unlink(target)
        raise


def _own_file(path: str) -> bool:
    status = os.lstat(path)
    return stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid()


def _move_odd(source: str, target: str) -> None:
    """What no link can be made to: a directory, a device, another user's file. Never a task, so that nobody races for it."""
    if os.path.lexists(target):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), source, None, target)
    os.rename(source, target)


def _plain(name: str) -> str:
    """A name for ``corrupt/``: no temporary file's, no reason's, of characters that show."""
    cut = os.fsencode(plain_name(name))[:_NAME_BYTES].decode(errors="replace").replace("\ufffd", "_")
    plain = cut.lstrip(".") or "unnamed"
    return f"{plain}_" if plain.endswith(REASON) else plain


class Storage:
    """File calls under one durability, all below one root."""

    def __init__(self, durability: str, root: str) -> None:
        self.full = durability == "full"
        self._root = root
        self._corrupt = f"{root}/corrupt"
        self._flush = SharedFlush(sync_file_system, root)

    def move(self, source: str, target: str, *, flush: bool = True) -> None:
        """Rename without overwriting, and make it durable. Raises ``FileNotFoundError``, ``FileExistsError``.

        What lies at the target and is no file is quarantined. A target whose directory is none counts as not there.
        """
        try:
            self._move(source, target)
        except FileExistsError:
            if not self.make_way(target):
                raise
            self._move(source, target)
        if flush and self.full:
            self.flush(os.path.dirname(target))

    def _move(self, source: str, target: str) -> None:
        failed = _renameat2(source, target)
        if failed in NOT_THERE:
            try:
                _move_by_link(source, target)
            except OSError as exc:
                if exc.errno not in _NO_WAY:
                    raise
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), source, None, target) from exc
        elif failed:
            failed = errno.ENOENT if failed in _NO_WAY else failed
            raise OSError(failed, os.strerror(failed), source, None, target)

    def claim_move(self, source: str, target: str) -> None:
        """The plain rename of a claim, not flushed yet: the target name carries worker and attempt and is no other file's.

        Raises ``FileNotFoundError``, ``OSError``.
        """
        try:
            os.rename(source, target)
        except OSError as exc:
            if exc.errno not in (*_NO_WAY, *_TAKEN):
                raise
            if os.path.lexists(target):  # a directory, or a directory comes where a file is
                self.quarantine(target, "it is in the place of a claimed task")
                os.rename(source, target)
            else:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), source) from exc

    def quarantine(self, path: str, reason: str) -> str | None:
        """Move whatever lies at ``path`` to ``corrupt/`` and write ``<name>.reason``; the new name, None if missing.

        The entry itself is moved, never what a link points to. Nothing is ever deleted. Raises ``OSError``.
        """
        was = os.path.basename(path)
        base = _plain(was)
        for number in range(_MOST_NAMES):
            name = f"{base}.{number}" if number else base
            place = f"{self._corrupt}/{name}"
            if os.path.lexists(place + REASON):
                continue
            try:
                self._move(path, place)
            except FileExistsError:
                continue
            except FileNotFoundError:
                return None
            if self.full:
                self.flush(self._corrupt)
            renamed = "" if name == was else f" (its name was {one_line(was)})"
            text = f"{one_line(reason.strip())}{renamed}\n"
            self.replace(place + REASON, text.encode(), durable=True)
            return name
        raise FileExistsError(errno.EEXIST, f"{self._corrupt} holds {_MOST_NAMES} of this name", path)

    def make_way(self, path: str) -> bool:
        """For a file of ours: whether something lay there that is no file, and is quarantined now. Raises ``OSError``."""
        words = odd_words(path)
        if not words:
            return False
        name = self.quarantine(path, f"it {words}, and was in the place of a file of swarm: {path}")
        log.warning("%s %s: moved to corrupt/%s", path, words, name)
        return True

    def open_own(self, path: str, flags: int) -> int:
        """Open a file of ours, or with ``O_CREAT`` make it; what has its name and is no file is quarantined first.

        Raises ``FileNotFoundError``, ``OSError``.
        """
        try:
            return open_file(path, flags, FILE_MODE)
        except OddEntry as odd:
            if not self.make_way(path):
                raise PermissionError(errno.EACCES, str(odd), path) from odd
        return open_file(path, flags, FILE_MODE)

    def write_new(self, path: str, data: bytes, *, flush: bool = True) -> None:
        """Create a file that must not exist, with its content; its directory is not flushed."""
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, FILE_MODE)
        try:
            write_all(fd, data, 0)
            if flush and self.full:
                self._flush.flush(fd)
        finally:
            os.close(fd)

    def replace(self, path: str, data: bytes, *, durable: bool) -> None:
        """Replace a whole file atomically; what has its name and is no file is quarantined.

        ``durable`` False skips the flush even under full durability.
        """
        with temporary.replacement(path, durable=durable and self.full) as fd:
            write_all(fd, data, 0)
            self.make_way(path)
        if durable:
            self.flush(os.path.dirname(path))

    def replace_json(self, path: str, document: msgspec.Struct) -> None:
        """Replace a whole document, durably, in lines that can be read."""
        self.replace(path, msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n", durable=True)

    def make_dir(self, path: str) -> None:
        """Make a directory below the root with its parents if it is missing, durably; many may do so at once.

        What has the name of one of them and is no directory is quarantined, so that nothing is made behind a link.
        """
        parent = os.path.dirname(path)
        if parent.startswith(f"{self._root}/") and folder_status(parent) is None:
            self.make_dir(parent)
        try:
            os.mkdir(path, DIR_MODE)
        except FileExistsError:
            status = status_of(path)
            if status is not None and not stat.S_ISDIR(status.st_mode):
                words = kind_words(status)
                name = self.quarantine(path, f"it {words}, and was in the place of a directory of swarm: {path}")
                log.warning("%s %s: moved to corrupt/%s", path, words, name)
                self.make_dir(path)
            return
        except FileNotFoundError:
            self.make_dir(parent)
            self.make_dir(path)
            return
        self.flush(parent)

    def flush(self, *targets: Target) -> None:
        """Make the names in directories (by path) and the content of open files durable, with as few flushes as it takes.

        Full durability only.
        """
        if self.full and targets:
            self._flush.flush(*targets)

    def flush_all(self, path: str) -> None:
        """Make everything in a directory durable, with one call where there is one (full durability only)."""
        if self.full:
            sync_tree(path)
