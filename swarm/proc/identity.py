"""Who a process is: its number alone is no identity, since numbers come round again."""

from __future__ import annotations

import os
import signal as signals

from swarm.core.worker import ProcessIdentity
from swarm.filesystem.durable import NOT_THERE
from swarm.proc.ending import end_of
from swarm.proc.stat import read_stat


def current() -> ProcessIdentity:
    """The identity of this process."""
    identity = of_pid(os.getpid())
    assert identity is not None, "this process is missing from /proc"
    return identity


def of_pid(pid: int) -> ProcessIdentity | None:
    """The identity of whoever has that number now (a zombie counts); None if nobody has."""
    stat = read_stat(pid) if pid > 0 else None
    return stat.identity if stat is not None else None


def parent_of(pid: int) -> int | None:
    """The number of a process's parent; None if there is no such process."""
    stat = read_stat(pid)
    return stat.parent if stat is not None else None


def is_same(identity: ProcessIdentity) -> bool:
    """Whether that very process still runs. False once it is a zombie, or its number belongs to another."""
    stat = read_stat(identity.pid)
    return stat is not None and stat.alive and stat.identity == identity


def command_line(identity: ProcessIdentity) -> list[str]:
    """The words with which that very process was started; none if it has ended."""
    try:
        with open(f"/proc/{identity.pid}/cmdline", "rb") as file:
            words = file.read().split(b"\0")[:-1]
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return []
    return [os.fsdecode(word) for word in words] if is_same(identity) else []


def open_pidfd(identity: ProcessIdentity) -> int | None:
    """A descriptor that becomes readable when the process ends; the caller closes it. None: it has ended."""
    return end_of(identity)


def signal(identity: ProcessIdentity, sig: int) -> bool:
    """Signal that very process and no other. False: it had ended. Raises ``PermissionError`` for a foreign user's.

    Without pidfds by its number, which was that process's a moment before.
    """
    try:
        pidfd = os.pidfd_open(identity.pid)
    except ProcessLookupError:
        return False
    except OSError as exc:
        if exc.errno not in NOT_THERE:
            raise
        return _signal_by_number(identity, sig)
    try:
        if of_pid(identity.pid) != identity:
            return False
        signals.pidfd_send_signal(pidfd, sig)
    except ProcessLookupError:
        return False
    except OSError as exc:
        if exc.errno not in NOT_THERE:
            raise
        return _signal_by_number(identity, sig)
    finally:
        os.close(pidfd)
    return True


def _signal_by_number(identity: ProcessIdentity, sig: int) -> bool:
    if of_pid(identity.pid) != identity:
        return False
    try:
        os.kill(identity.pid, sig)
    except ProcessLookupError:
        return False
    return True
