"""Checks that nobody but the user and root could have changed a file.

* It is for configuration files, which name programs that run as whoever starts swarm.
* The file, every directory above it and every symbolic link on the way must belong to the user or root, and nobody else may
  write there. A directory that others may write to is accepted where the sticky bit keeps them from renaming what is not
  theirs (``/tmp``).
* What is checked is what is read: the path is walked by descriptors, one name at a time, and the file is opened once.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import msgspec

_LOOK = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_MOST_LINKS = 40


class Doubt(msgspec.Struct, frozen=True):
    """One way in which somebody else could change what lies at ``path``."""

    path: str
    what: str
    mend: str
    """A command that ends it."""
    foreign: bool = False
    """It belongs to somebody else, who would have to give it away."""

    def __str__(self) -> str:
        return f"{self.path} {self.what}"


@contextmanager
def opened(path: str, uid: int | None = None) -> Iterator[tuple[int, tuple[Doubt, ...]]]:
    """The regular file at ``path`` open for reading, and what is doubtful about it or the way to it for this user (ours).

    Raises ``OSError``; ``ValueError`` for a path no file can have.
    """
    with ExitStack() as open_fds:
        walk = _Walk(os.geteuid() if uid is None else uid, open_fds)
        fd = walk.to(os.path.join(os.getcwd(), path) if not os.path.isabs(path) else path)
        yield fd, tuple(dict.fromkeys(walk.doubts))


def doubts_on_the_way(path: str, uid: int | None = None) -> tuple[Doubt, ...]:
    """What is doubtful about the directories and links that lead to a directory and itself, as far as it is there yet."""
    with ExitStack() as open_fds:
        walk = _Walk(os.geteuid() if uid is None else uid, open_fds)
        with suppress(OSError):  # its end, or what cannot be entered: that is for whoever opens it to tell
            walk.to(os.path.join(os.getcwd(), path))
        return tuple(dict.fromkeys(walk.doubts))


class _Walk:
    """From the root directory to one file."""

    def __init__(self, uid: int, open_fds: ExitStack) -> None:
        self._uid = uid
        self._open_fds = open_fds
        self._private_groups: dict[int, bool] = {}
        self.doubts: list[Doubt] = []

    def to(self, path: str) -> int:
        names = [name for name in path.split("/") if name not in ("", ".")]
        at, folder = self._top()
        links = 0
        while names:
            name = names.pop(0)
            here = f"{at.rstrip('/')}/{name}"
            fd = self._opened(os.open(name, _LOOK, dir_fd=folder))
            status = os.fstat(fd)
            if stat.S_ISLNK(status.st_mode):
                links += 1
                if links > _MOST_LINKS:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
                self._check_owner(here, status)
                target = os.readlink("", dir_fd=fd)
                names = [part for part in target.split("/") if part not in ("", ".")] + names
                if target.startswith("/"):
                    at, folder = self._top()
            elif stat.S_ISDIR(status.st_mode):
                self._check_folder(here, fd, status)
                at, folder = (os.path.dirname(at) if name == ".." else here), fd
            elif names:
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), here)
            else:
                return self._file(here, name, folder)
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)

    def _top(self) -> tuple[str, int]:
        fd = self._opened(os.open("/", _LOOK | os.O_DIRECTORY))
        self._check_folder("/", fd, os.fstat(fd))
        return "/", fd

    def _file(self, here: str, name: str, folder: int) -> int:
        fd = self._opened(os.open(name, _READ, dir_fd=folder))
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "is no regular file", here)
        self._check_owner(here, status)
        self._check_mode(here, fd, status)
        return fd

    def _opened(self, fd: int) -> int:
        self._open_fds.callback(os.close, fd)
        return fd

    def _check_folder(self, path: str, fd: int, status: os.stat_result) -> None:
        self._check_owner(path, status, unknown_is_root=True)
        if not status.st_mode & stat.S_ISVTX:
            self._check_mode(path, fd, status)

    def _check_owner(self, path: str, status: os.stat_result, *, unknown_is_root: bool = False) -> None:
        if status.st_uid in (0, self._uid) or (unknown_is_root and status.st_uid == _unknown_uid()):
            return
        mend = f"chown -h {_user(self._uid)} {_quoted(path)}"
        self.doubts.append(Doubt(path, f"belongs to {_user(status.st_uid)}", mend, foreign=True))

    def _check_mode(self, path: str, fd: int, status: os.stat_result) -> None:
        mend = f"chmod go-w {_quoted(path)}"
        if status.st_mode & stat.S_IWOTH:
            self.doubts.append(Doubt(path, "can be written to by everybody", mend))
        elif status.st_mode & stat.S_IWGRP:
            if _has_list(fd):
                what = "has an access control list by which others may write"
                self.doubts.append(Doubt(path, what, f"setfacl -b {_quoted(path)}; {mend}"))
            elif not self._is_private(status.st_gid):
                self.doubts.append(Doubt(path, f"can be written to by the group {_group(status.st_gid)}", mend))

    def _is_private(self, gid: int) -> bool:
        if gid not in self._private_groups:
            self._private_groups[gid] = is_private_group(gid, self._uid)
        return self._private_groups[gid]


def is_private_group(gid: int, uid: int) -> bool:
    """Whether nobody but this user (or root) is in the group: the user's own, of the same name, as a umask of 002 expects.

    Groups of other names may have members that no list tells of, where users come from a directory service.
    """
    import grp  # noqa: PLC0415 - only where a group may write at all
    import pwd  # noqa: PLC0415

    try:
        group = grp.getgrgid(gid)
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        return False
    if group.gr_name != name and gid != 0:
        return False
    if not {name, "root"}.issuperset(group.gr_mem):
        return False
    return not any(user.pw_gid == gid and user.pw_uid not in (uid, 0) for user in pwd.getpwall())


def _has_list(fd: int) -> bool:
    """Whether more may write than the mode tells: its group bits are then the most that anybody on the list may do."""
    try:
        return bool(os.getxattr(f"/proc/self/fd/{fd}", "system.posix_acl_access"))
    except OSError:
        return False


def _unknown_uid() -> int:
    """The owner that files of unmapped users seem to have inside a user namespace, root's among them; -1 outside of one."""
    try:
        with open("/proc/self/uid_map", "rb") as file:
            if file.read().split() == [b"0", b"0", b"4294967295"]:
                return -1
        with open("/proc/sys/kernel/overflowuid", "rb") as file:
            return int(file.read())
    except (OSError, ValueError):
        return -1


def _user(uid: int) -> str:
    import pwd  # noqa: PLC0415 - only for a refusal

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _group(gid: int) -> str:
    import grp  # noqa: PLC0415 - only for a refusal

    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def _quoted(path: str) -> str:
    import shlex  # noqa: PLC0415 - only for a refusal

    return shlex.quote(path)
