"""Opening a queue root: making its directories, and refusing one that others could write to."""

from __future__ import annotations

import logging
import os
import re
import stat

from swarm.entries import printable, status_of
from swarm.errors import QueueError, StorageFault
from swarm.taskqueue.layout import Layout
from swarm.taskqueue.storage import DIR_MODE, Storage, storage_faults

log = logging.getLogger(__name__)
_FILE_NAME = re.compile(r".*\.(json|jsonl|lock|log|err)(\.[0-9]+)?|counts", re.DOTALL).fullmatch
"""Names of our files in the flat directories."""


def prepare(layout: Layout, storage: Storage) -> None:
    """Make what is missing and check owner and modes. Raises ``QueueError``, ``StorageFault``. Safe to run at once twice.

    What lies under a name that a process of ours will write to, and is no file, is set aside.
    """
    with storage_faults(f"cannot set up the queue root {layout.root}"):
        os.makedirs(layout.root, mode=DIR_MODE, exist_ok=True)
        for path in layout.directories():
            if status_of(path) is None:
                storage.make_dir(path)
            _check(path)
    for folder in (layout.workers, layout.heartbeats, layout.logs, layout.control, layout.sessions):
        _clear_ways(storage, folder)


def exists(layout: Layout) -> bool:
    """Whether there is a queue at this root."""
    return os.path.isdir(layout.pending)


def _clear_ways(storage: Storage, folder: str) -> None:
    with storage_faults(f"cannot look into {folder}"), os.scandir(folder) as entries:
        odd = [e.path for e in entries if not (e.is_file(follow_symlinks=False) or _is_plain_folder(e))]
    for path in odd:
        try:
            with storage_faults(f"{printable(path)} is odd and cannot be set aside"):
                storage.make_way(path)
        except StorageFault as fault:
            log.warning("%s", fault)


def _is_plain_folder(entry: os.DirEntry[str]) -> bool:
    return entry.is_dir(follow_symlinks=False) and _FILE_NAME(entry.name) is None


def _check(path: str) -> None:
    status = os.lstat(path)
    if not stat.S_ISDIR(status.st_mode):
        raise QueueError(f"{path} is no directory", hint="move it away or choose another root with --root")
    if status.st_uid != os.geteuid():
        raise QueueError(f"{path} belongs to user {status.st_uid}", hint="use a root of your own with --root")
    if status.st_mode & 0o022:
        raise QueueError(
            f"{path} can be written to by others: whoever can put tasks there can spend the GPUs",
            hint=f"chmod go-w {path}",
        )
