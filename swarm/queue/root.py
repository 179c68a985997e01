"""Opening a queue root: making its directories, and refusing one that others could write to, or that cannot hold a queue."""

from __future__ import annotations

import logging
import os
import re
import stat
from contextlib import suppress

from swarm.core.doctor.root_check import Check, first_missing, judge
from swarm.errors import QueueError, StorageFault
from swarm.filesystem.durable import place_of
from swarm.filesystem.entries import printable, status_of
from swarm.filesystem.ownership import doubts_on_the_way
from swarm.queue.layout import Layout
from swarm.queue.root_probe import probe
from swarm.queue.storage.files import DIR_MODE, Storage, storage_faults

log = logging.getLogger(__name__)
_FILE_NAME = re.compile(r".*\.(json|jsonl|lock|log|err)(\.[0-9]+)?|counts", re.DOTALL).fullmatch
"""Names of our files in the flat directories."""
_OTHER = "move it away or choose another --root"


def prepare(layout: Layout, storage: Storage) -> None:
    """Make what is missing; check owners, modes and what the file system can do. Safe to run at once twice.

    What lies under a name that a process of ours will write to, and is no file, is set aside.
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


def _clear_ways(storage: Storage, folder: str) -> None:
    with storage_faults(f"cannot look into {folder}"), os.scandir(folder) as entries:
        odd = [e.path for e in entries if not (e.is_file(follow_symlinks=False) or _is_plain_folder(e))]
    for path in odd:
        try:
            with storage_faults(f"{printable(path)} is no file or directory of swarm and cannot be moved to corrupt/"):
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
        raise QueueError(f"{path} belongs to user {status.st_uid}", hint="use a root of your own with --root")
    if status.st_mode & 0o022:
        raise QueueError(
            f"{path} can be written to by others: whoever can put tasks there can use the GPUs",
            hint=f"chmod go-w {path}",
        )
