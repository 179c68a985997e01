"""Process identity (number, start time, boot), signals, and a descriptor for its end.

* A number alone is reused by the kernel.
* ``/proc/<pid>/stat`` is read directly: psutil takes five times as long, and its start time moves with the clock.
* Where there are no pidfds (kernels before 5.3, system call filters) a thread polls every ``POLL_S`` instead.
"""

from __future__ import annotations

import os
import select
import signal as signals
import threading
from collections.abc import Callable, Iterator
from functools import cache

import msgspec

from swarm.core.worker import ProcessIdentity
from swarm.filesystem.durable import NOT_THERE

POLL_S = 0.05
_DEAD_STATES = frozenset("ZXx")
_THREADS_FIELD, _START_FIELD = 17, 19
"""Fields 20 and 22 of the file, counted from the state, which follows the command's closing parenthesis."""


class ProcessStat(msgspec.Struct, frozen=True):
    """One line of ``/proc/<pid>/stat``."""

    identity: ProcessIdentity
    state: str
    parent: int
    group: int
    threads: int = 1

    @property
    def alive(self) -> bool:
        """False for a zombie: it has ended and only waits to be collected.

        One whose first thread alone has ended looks like a zombie, and cannot be collected before its other threads end.
        """
        return self.state not in _DEAD_STATES or self.threads > 1


@cache
def boot_id() -> str:
    """Changes with each boot, so that no identity of an earlier boot is taken for a living process.

    Where a container hides it, number and start time alone tell processes apart.
    """
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return "unknown"


def read_stat(pid: int) -> ProcessStat | None:
    """The process of that number now, zombies included; None if there is none, or it is hidden (another user's)."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            text = file.read()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None
    # The command may hold blanks and parentheses; the last parenthesis ends it.
    fields = text[text.rindex(b")") + 2 :].split()
    return ProcessStat(
        identity=ProcessIdentity(pid=pid, start_ticks=int(fields[_START_FIELD]), boot_id=boot_id()),
        state=fields[0].decode(),
        parent=int(fields[1]),
        group=int(fields[2]),
        threads=int(fields[_THREADS_FIELD]),
    )


def all_pids() -> Iterator[int]:
    """The numbers of all processes visible now."""
    for name in os.listdir("/proc"):
        if name.isdigit():
            yield int(name)


def current() -> ProcessIdentity:
    """The identity of this process."""
    identity = of_pid(os.getpid())
    assert identity is not None, "this process is missing from /proc"
    return identity


def of_pid(pid: int) -> ProcessIdentity | None:
    """The identity of the process with that number now (a zombie counts); None if there is none."""
    stat = read_stat(pid) if pid > 0 else None
    return stat.identity if stat is not None else None


def is_same(identity: ProcessIdentity) -> bool:
    """Whether that very process still runs. False once it is a zombie, or its number belongs to another."""
    stat = read_stat(identity.pid)
    return stat is not None and stat.alive and stat.identity == identity


def command_line(identity: ProcessIdentity) -> list[str]:
    """The words with which that very process was started; none if it has ended."""
    import psutil  # noqa: PLC0415  (quick commands only look whether a process runs)

    try:
        words = psutil.Process(identity.pid).cmdline()
    except psutil.Error:
        return []
    return words if is_same(identity) else []


def signal(identity: ProcessIdentity, sig: int) -> bool:
    """Signal that very process and no other. False: it had ended. Raises ``PermissionError`` for a foreign user's.

    Without pidfds by its number, which was that process's a moment before.
    """
    try:
        pidfd = os.pidfd_open(identity.pid)
        try:
            if of_pid(identity.pid) != identity:
                return False
            signals.pidfd_send_signal(pidfd, sig)
        finally:
            os.close(pidfd)
    except ProcessLookupError:
        return False
    except OSError as exc:
        if exc.errno not in NOT_THERE:
            raise
        return _signal_by_number(identity, sig)
    return True


def _signal_by_number(identity: ProcessIdentity, sig: int) -> bool:
    if of_pid(identity.pid) != identity:
        return False
    try:
        os.kill(identity.pid, sig)
    except ProcessLookupError:
        return False
    return True


def open_pidfd(identity: ProcessIdentity) -> int | None:
    """A descriptor that becomes readable when the process ends; the caller closes it. None: it has ended.

    The identity is checked *after* opening: if it still holds then, the descriptor cannot mean a later process.
    """
    try:
        fd = os.pidfd_open(identity.pid)
    except ProcessLookupError:
        return None
    except OSError as exc:
        if exc.errno not in NOT_THERE:
            raise
        return _watched(lambda: not is_same(identity)) if is_same(identity) else None
    if of_pid(identity.pid) == identity:
        return fd
    os.close(fd)
    return None


def end_of_child(pid: int) -> int:
    """The same for a child of this process that is not reaped while the descriptor is in use. Raises ``OSError``."""
    try:
        return os.pidfd_open(pid)
    except OSError as exc:
        if exc.errno not in NOT_THERE:
            raise
        return _watched(lambda: _child_ended(pid))


def _child_ended(pid: int) -> bool:
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:  # reaped
        return True


def _watched(ended: Callable[[], bool]) -> int:
    """In place of a pidfd: a pipe that a thread closes at the end of the process, or once nobody reads it any more."""
    reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    def watch() -> None:
        poll = select.poll()
        poll.register(writer, 0)  # only that nobody holds the other end any more
        while not poll.poll(POLL_S * 1000) and not ended():
            pass
        os.close(writer)

    threading.Thread(target=watch, name="end-of-process", daemon=True).start()
    return reader
