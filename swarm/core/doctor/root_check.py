"""What a queue root needs of its file system and the kernel, judged by probe results. Pure."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from enum import StrEnum

import msgspec

TRANSIENT = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE, errno.EINTR}
)
"""Troubles that pass: they say nothing about what the file system can do."""
WRITE, ROOM = "write", "room"
TOLD_OF_THE_DISK = (WRITE, ROOM)
"""Checks that a disk in trouble fails as well."""
NEEDED_NAME_BYTES = 110
"""The longest name of a task's file, with that of its temporary file."""
USUAL_NAME_BYTES = 255
LEAST_KIB = 256
LEAST_INODES = 64
"""What a start itself writes: with less it could not even say why it fails."""
_FAST = (
    'set [queue] durability = "fast" (SWARM_QUEUE__DURABILITY=fast): tasks survive `kill -9`, but not a power cut; '
    "or choose a root on another file system with --root"
)
_ELSEWHERE = "choose a root on a local file system with --root"


class RootProbe(msgspec.Struct, frozen=True, kw_only=True):
    """What each call answered: 0, or an errno; None: it was not tried."""

    write: int | None = None
    """Making a file and writing to it. Unless it is 0 nothing else was tried."""
    lock: int | None = None
    excludes: bool = True
    """A second lock was refused while the first was held."""
    rename: int | None = None
    rename_new: int | None = None
    """A rename that never overwrites."""
    overwrites: bool = False
    """It overwrote all the same."""
    link: int | None = None
    nameless: int | None = None
    """A file without a name, and giving it one."""
    flush_file: int | None = None
    flush_folder: int | None = None
    flush_all: int | None = None
    """``syncfs``."""
    notice: int | None = None
    """inotify."""
    free_kib: int | None = None
    free_inodes: int | None = None
    """None as well where they are not counted."""
    name_bytes: int | None = None
    """The longest name."""
    folds_case: bool = False
    words: dict[int, str] = {}
    """What the kernel says for the errnos in here."""

    @property
    def troubled(self) -> bool:
        """The disk was in trouble, or read-only, while it was tried: what it refused it may do later."""
        answers = (self.write, self.lock, self.rename, self.rename_new, self.link, self.flush_file, self.flush_folder)
        return any(code in TRANSIENT or code == errno.EROFS for code in answers)

    def reason(self, code: int) -> str:
        """In words."""
        return self.words.get(code) or errno.errorcode.get(code, str(code))


class Support(StrEnum):
    """How well one need is met."""

    WORKS = "works"
    FALLBACK = "fallback"
    """Something else does instead; the text says what is lost."""
    MISSING = "missing"
    """Nothing can do instead: the root is refused."""
    UNKNOWN = "unknown"


class Check(msgspec.Struct, frozen=True):
    """One need."""

    name: str
    verdict: Support
    text: str
    next: str = ""
    """What to do about it; empty where nothing need be done."""

    def __str__(self) -> str:
        return f"{self.name}: {self.text}"


def judge(probe: RootProbe, *, place: Callable[[], str], full: bool) -> tuple[Check, ...]:
    """All that was tried, a check each. ``full``: durability is promised.

    ``place`` names the file system; it is asked only where that is to be said.
    """
    if probe.write:
        room = _room(probe, place)
        return (_unwritable(probe, probe.write, place), *(() if room is None else (room,)))
    return tuple(
        check
        for check in (
            _locks(probe, place),
            _rename(probe, place),
            _rename_new(probe, place),
            _nameless(probe),
            _flush(probe, place, full=full),
            _flush_all(probe, place),
            _notice(probe),
            _room(probe, place),
            *_names(probe, place),
        )
        if check is not None
    )


def first_missing(checks: tuple[Check, ...]) -> Check | None:
    """Why the root is refused; None if it is not."""
    return next((check for check in checks if check.verdict is Support.MISSING), None)


def fallbacks(checks: tuple[Check, ...]) -> Iterator[Check]:
    """Needs that are met in another way here."""
    yield from (check for check in checks if check.verdict is Support.FALLBACK)


def _unwritable(probe: RootProbe, code: int, place: Callable[[], str]) -> Check:
    if code in TRANSIENT:
        return Check(WRITE, Support.UNKNOWN, f"nothing could be tested: {probe.reason(code)}")
    text = f"nothing can be written ({probe.reason(code)}; {place()})"
    step = "remount it writable: see `dmesg`" if code == errno.EROFS else "give this user the directory"
    return Check(WRITE, Support.MISSING, text, next=f"{step}, or choose another --root")


def _locks(probe: RootProbe, place: Callable[[], str]) -> Check | None:
    loss = "two processes could work on the same task, and a dead worker would look alive"
    if probe.lock is None:
        return None
    if probe.lock in TRANSIENT:
        return Check("locks", Support.UNKNOWN, probe.reason(probe.lock))
    if probe.lock:
        text = f"file locks do not work here ({probe.reason(probe.lock)}; {place()}): {loss}"
        step = f"{_ELSEWHERE}; in a container a filter of system calls may forbid flock"
        return Check("locks", Support.MISSING, text, next=step)
    if not probe.excludes:
        text = f"file locks do not exclude other processes here ({place()}): {loss}"
        return Check("locks", Support.MISSING, text, next=_ELSEWHERE)
    return Check("locks", Support.WORKS, "held by one process at a time")


def _rename(probe: RootProbe, place: Callable[[], str]) -> Check | None:
    if probe.rename is None:
        return None
    if probe.rename and probe.rename not in TRANSIENT:
        text = f"files cannot be renamed here ({probe.reason(probe.rename)}; {place()}): no task could change its state"
        return Check("rename", Support.MISSING, text, next=_ELSEWHERE)
    return Check("rename", Support.WORKS, "works")


def _rename_new(probe: RootProbe, place: Callable[[], str]) -> Check | None:
    name = "rename without overwriting"
    if probe.rename_new is None:
        return None
    if probe.overwrites:
        text = f"a rename that must not overwrite did so ({place()}): a task or a result could be lost"
        return Check(name, Support.MISSING, text, next=_ELSEWHERE)
    if not probe.rename_new:
        return Check(name, Support.WORKS, "works")
    if probe.link:
        both = f"neither is there a rename that never overwrites ({probe.reason(probe.rename_new)}) nor are there hard links"
        text = f"{both} ({probe.reason(probe.link)}; {place()}): a task or a result could be overwritten"
        return Check(name, Support.MISSING, text, next=_ELSEWHERE)
    text = f"not here ({probe.reason(probe.rename_new)}): a link and the removal of the old name are used instead"
    return Check(name, Support.FALLBACK, text)


def _nameless(probe: RootProbe) -> Check | None:
    if probe.nameless is None:
        return None
    if probe.nameless:
        text = f"not here ({probe.reason(probe.nameless)}): new tasks are named and then renamed, which costs more"
        return Check("files without a name", Support.FALLBACK, text)
    return Check("files without a name", Support.WORKS, "work")


def _flush(probe: RootProbe, place: Callable[[], str], *, full: bool) -> Check | None:
    if probe.flush_file is None or probe.flush_folder is None:
        return None
    lacking = [
        f"{what} ({probe.reason(code)})"
        for what, code in (("files", probe.flush_file), ("directories", probe.flush_folder))
        if code and code not in TRANSIENT
    ]
    if not lacking:
        return Check("flush", Support.WORKS, "of files and directories works")
    cannot = f"{place()} cannot flush {' and '.join(lacking)}"
    if not full:
        text = f'{cannot}; with durability "fast" nothing is flushed anyway'
        return Check("flush", Support.FALLBACK, text)
    if probe.flush_all:
        text = (
            f"{cannot}, nor the whole file system ({probe.reason(probe.flush_all)}): a power cut would lose accepted tasks"
        )
        return Check("flush", Support.MISSING, text, next=_FAST)
    text = f"{cannot}: the whole file system is flushed instead, which takes longer; what survives a power cut depends on it"
    return Check("flush", Support.FALLBACK, text, next=_FAST)


def _flush_all(probe: RootProbe, place: Callable[[], str]) -> Check | None:
    if probe.flush_all is None:
        return None
    if probe.flush_all and probe.flush_all not in TRANSIENT:
        text = (
            f"not possible ({probe.reason(probe.flush_all)}; {place()}): file by file instead; large submissions take longer"
        )
        return Check("flush of all at once", Support.FALLBACK, text)
    return Check("flush of all at once", Support.WORKS, "works")


def _notice(probe: RootProbe) -> Check | None:
    if probe.notice is None:
        return None
    if not probe.notice:
        return Check("inotify", Support.WORKS, "works")
    steps = {
        errno.EMFILE: "sysctl fs.inotify.max_user_instances=1024 (all are taken by this user's programs)",
        errno.ENOSPC: "sysctl fs.inotify.max_user_watches=524288 (all are taken by this user's programs)",
    }
    text = f"not available ({probe.reason(probe.notice)}): new work is found by polling, a moment later"
    return Check("inotify", Support.FALLBACK, text, next=steps.get(probe.notice, ""))


def _room(probe: RootProbe, place: Callable[[], str]) -> Check | None:
    if probe.free_kib is None:
        return None
    inodes = "" if probe.free_inodes is None else f", {probe.free_inodes} inodes"
    text = f"{probe.free_kib >> 10} MiB{inodes} free"
    if probe.free_kib >= LEAST_KIB and (probe.free_inodes is None or probe.free_inodes >= LEAST_INODES):
        return Check(ROOM, Support.WORKS, text)
    full = f"{place()} is full: {probe.free_kib} KiB{inodes} free"
    step = "make room: `swarm queue purge --older-than 7d`, old logs, `ollama rm`; or choose another --root"
    return Check(ROOM, Support.MISSING, full, next=step)


def _names(probe: RootProbe, place: Callable[[], str]) -> Iterator[Check]:
    longest = probe.name_bytes
    if longest is not None and longest < NEEDED_NAME_BYTES:
        text = f"names have at most {longest} bytes here ({place()}); a task's needs up to {NEEDED_NAME_BYTES}"
        yield Check("names", Support.MISSING, text, next=_ELSEWHERE)
    elif longest is not None and longest < USUAL_NAME_BYTES:
        text = f"of at most {longest} bytes ({place()}): models and files with longer ones are refused"
        yield Check("names", Support.FALLBACK, text)
    if probe.folds_case:
        text = f"{place()} does not distinguish a from A: names that differ only in case are treated as the same"
        yield Check("case of names", Support.FALLBACK, text, next="use names that differ otherwise")
