"""A descriptor that becomes readable when a process ends: a pidfd, or where there is none, a pipe that a thread closes.

Kernels before 5.3 have no pidfds, and a container's filter of system calls may forbid them. The thread looks every
``POLL_S`` whether the process is still that very one; it ends with the process, or once the descriptor is closed.
"""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Callable

from swarm.core.worker import ProcessIdentity
from swarm.filesystem.durable import NOT_THERE
from swarm.proc.stat import read_stat

POLL_S = 0.05


def end_of(identity: ProcessIdentity) -> int | None:
    """For any process; the caller closes it. None: it has ended.

    The identity is checked *after* opening: if it still holds then, the descriptor cannot mean a later process.
    """
    try:
        fd = os.pidfd_open(identity.pid)
    except ProcessLookupError:
        return None
    except OSError as exc:
        if exc.errno not in NOT_THERE:
            raise
        return _watched(lambda: not _runs(identity)) if _runs(identity) else None
    stat = read_stat(identity.pid)
    if stat is not None and stat.identity == identity:
        return fd
    os.close(fd)
    return None


def end_of_child(pid: int) -> int:
    """For a child of this process that is not reaped while the descriptor is in use. Raises ``OSError``."""
    try:
        return os.pidfd_open(pid)
    except OSError as exc:
        if exc.errno not in NOT_THERE:
            raise
        return _watched(lambda: _child_ended(pid))


def _runs(identity: ProcessIdentity) -> bool:
    stat = read_stat(identity.pid)
    return stat is not None and stat.alive and stat.identity == identity


def _child_ended(pid: int) -> bool:
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:  # reaped
        return True


def _watched(ended: Callable[[], bool]) -> int:
    reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    def watch() -> None:
        poll = select.poll()
        poll.register(writer, 0)  # only that nobody holds the other end any more
        while not poll.poll(POLL_S * 1000) and not ended():
            pass
        os.close(writer)

    threading.Thread(target=watch, name="end-of-process", daemon=True).start()
    return reader
