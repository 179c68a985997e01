"""Process 1 of a container without an init: reaps orphans, forwards signals.

The work itself runs in a child.

The kernel delivers to process 1 only signals that it handles, and gives it all orphans, which stay zombies until reaped.
When the work ends, so does process 1, with the same status; the kernel then ends whatever is left.
"""

from __future__ import annotations

import os
import signal

_FORWARDED = frozenset(
    {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCONT}
)
_OF_TERMINALS = frozenset({signal.SIGINT, signal.SIGQUIT, signal.SIGHUP})
_SI_KERNEL = 0x80


def work_below_init() -> None:
    """If this is process 1, return in a child of it. To be called before any thread is started."""
    if os.getpid() != 1:
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _FORWARDED | {signal.SIGCHLD})
    child = os.fork()
    if child == 0:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return
    os._exit(_serve(child))


def _serve(child: int) -> int:
    while True:
        heard = signal.sigwaitinfo(_FORWARDED | {signal.SIGCHLD})
        if heard.si_signo == signal.SIGCHLD:
            code = _reap(child)
            if code is not None:
                return code
        elif heard.si_code != _SI_KERNEL or heard.si_signo not in _OF_TERMINALS:  # a terminal signals the child itself
            os.kill(child, heard.si_signo)


def _reap(child: int) -> int | None:
    """Reap all that have ended; the exit status of the child once it is among them."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return None
        if pid == child:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code
        if pid == 0:
            return None
