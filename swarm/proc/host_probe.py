"""Tries at startup whether this host allows what process management needs.

Processes must be started, recognised, signalled and watched; what fails is said in a sentence. Containers may forbid system
calls by a filter, and show no ``/proc``, or that of another PID namespace.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator

from swarm.core.doctor.root_check import Check, Support
from swarm.filesystem.durable import NOT_THERE

PROC = "/proc"
_FILTER = "a filter of system calls forbids it: a newer container runtime, or --security-opt seccomp=unconfined"
_LIMIT = (
    "a limit on processes was reached (`ulimit -u`, pids.max of the control group), or an old container runtime forbids it"
)


def host_checks() -> tuple[Check, ...]:
    """One check per need. Takes a tenth of a millisecond."""
    return (_threads(), _signals(), _waking(), *_processes(), _pidfds())


def _threads() -> Check:
    thread = threading.Thread(target=_nothing, daemon=True)
    try:
        thread.start()
    except RuntimeError as exc:
        return _missing("threads", f"no thread can be started ({exc})", _LIMIT)
    thread.join()
    return _works("threads", "can be started")


def _nothing() -> None:
    """What a thread does that is only tried."""


def _signals() -> Check:
    refused = _refused(lambda: os.kill(os.getpid(), 0))
    if refused:
        return _missing("signals", f"no process can be signalled ({refused}): no child process could be ended", _FILTER)
    return _works("signals", "can be sent")


def _waking() -> Check:
    refused = _refused(lambda: os.close(os.eventfd(0, os.EFD_CLOEXEC)))
    if refused:
        return _missing("eventfd", f"a process that waits could not be woken ({refused})", _FILTER)
    return _works("eventfd", "works")


def _processes() -> Iterator[Check]:
    name, mend = (
        "processes",
        "mount -t proc proc /proc, in the container or namespace that swarm runs in (unshare --mount-proc)",
    )
    try:
        shown = os.readlink(f"{PROC}/self")
    except OSError as exc:
        what = f"{PROC} does not show this process ({exc.strerror}): processes could not be identified"
        yield _missing(name, what, mend)
        return
    if shown != str(os.getpid()):
        what = f"{PROC} belongs to another PID namespace (this process is {os.getpid()}, and {shown} there)"
        yield _missing(name, f"{what}: processes of others would be taken for ours", mend)
        return
    refused = _refused(lambda: os.close(os.open(f"{PROC}/self/stat", os.O_RDONLY | os.O_CLOEXEC)))
    if refused:
        yield _missing(name, f"{PROC}/self/stat cannot be read ({refused})", mend)
        return
    yield _works(name, f"are identified through {PROC}{_hidden()}")


def _hidden() -> str:
    return "; those of other users are hidden" if os.geteuid() and not os.path.exists(f"{PROC}/1/stat") else ""


def _pidfds() -> Check:
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError as exc:
        if exc.errno in NOT_THERE:
            text = f"not here ({exc.strerror}): ends of processes are noticed by polling, up to 0.05 s later"
            return Check("pidfds", Support.FALLBACK, text)
        return Check("pidfds", Support.UNKNOWN, exc.strerror or "")
    return _works("pidfds", "work")


def _refused(call: Callable[[], object]) -> str:
    try:
        call()
    except OSError as exc:
        return exc.strerror or type(exc).__name__
    return ""


def _works(name: str, text: str) -> Check:
    return Check(name, Support.WORKS, text)


def _missing(name: str, text: str, step: str) -> Check:
    return Check(name, Support.MISSING, text, next=step)
