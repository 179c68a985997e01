"""Who works on a root says so with a shared lock, so that who comes alone knows it, and looks what a power cut has taken."""

from __future__ import annotations

import fcntl
import os
import weakref

from swarm.taskqueue.layout import Layout
from swarm.taskqueue.replay import replay
from swarm.taskqueue.storage import DIR_MODE, Storage, storage_faults


class Presence:
    """Lasts as long as this object, or its process. Making it does again what the disk has lost; raises ``StorageFault``."""

    def __init__(self, layout: Layout) -> None:
        with storage_faults("cannot join those who work on this root"):
            os.makedirs(layout.journal, mode=DIR_MODE, exist_ok=True)
            fd = Storage("fast", layout.root).open_own(f"{layout.journal}/.lock", os.O_RDONLY | os.O_CREAT)
        self.restored: tuple[str, ...] = ()
        """What was lost and is back, a line each."""
        try:
            if _alone(fd):
                self.restored = replay(layout)
            fcntl.flock(fd, fcntl.LOCK_SH)
        except BaseException:
            os.close(fd)
            raise
        self._end = weakref.finalize(self, os.close, fd)

    def leave(self) -> None:
        """Not here any more."""
        self._end()


def _alone(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
