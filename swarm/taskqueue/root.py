"""Opening a queue root: making its directories, and refusing one that others could write to."""

from __future__ import annotations

import os
import stat

from swarm.errors import QueueError
from swarm.taskqueue.layout import Layout
from swarm.taskqueue.storage import DIR_MODE, Storage, storage_faults


def prepare(layout: Layout, storage: Storage) -> None:
    """Make what is missing and check owner and modes. Raises ``QueueError``, ``StorageFault``. Safe to run at once twice."""
    with storage_faults(f"cannot set up the queue root {layout.root}"):
        os.makedirs(layout.root, mode=DIR_MODE, exist_ok=True)
        for path in layout.directories():
            storage.make_dir(path)
            _check(path)


def exists(layout: Layout) -> bool:
    """Whether there is a queue at this root."""
    return os.path.isdir(layout.pending)


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
