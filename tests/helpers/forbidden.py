"""Runs a command under a filter of system calls, as containers have: ``forbidden.py EPERM renameat2,flock COMMAND …``."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import sys

NUMBERS = {
    "x86_64": {
        "kill": 62,
        "flock": 73,
        "fsync": 74,
        "link": 86,
        "linkat": 265,
        "eventfd2": 290,
        "inotify_init1": 294,
        "syncfs": 306,
        "renameat2": 316,
        "pidfd_send_signal": 424,
        "pidfd_open": 434,
        "clone3": 435,
        "faccessat2": 439,
    },
    "aarch64": {
        "kill": 129,
        "flock": 32,
        "fsync": 82,
        "linkat": 37,
        "eventfd2": 19,
        "inotify_init1": 26,
        "syncfs": 267,
        "renameat2": 276,
        "pidfd_send_signal": 424,
        "pidfd_open": 434,
        "clone3": 435,
        "faccessat2": 439,
    },
}.get(platform.machine(), {})
_LOAD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_REFUSE, _ALLOW = 0x00050000, 0x7FFF0000
_NO_NEW_PRIVS, _SET_SECCOMP, _FILTER = 38, 22, 2


def forbid(calls: list[str], code: int) -> None:
    """From now on, and in all children, these answer with this errno. Raises ``OSError``."""
    numbers = [NUMBERS[name] for name in calls if name in NUMBERS]
    steps = [(_LOAD, 0, 0, 0)]
    steps += [(_JUMP_IF_EQUAL, len(numbers) - n, 0, number) for n, number in enumerate(numbers)]
    steps += [(_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _REFUSE | code)]
    program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
    header = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(steps), ctypes.addressof(program)))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(_SET_SECCOMP, _FILTER, header):
        raise OSError(ctypes.get_errno(), "no filter can be set here")


def available() -> bool:
    """Whether filters can be set here: tried in a child."""
    if not NUMBERS:
        return False
    child = os.fork()
    if child == 0:
        code = 1
        try:
            forbid(["renameat2"], errno.EPERM)
            code = 0
        finally:
            os._exit(code)  # the child must never return into the test runner
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


if __name__ == "__main__":
    forbid(sys.argv[2].split(","), getattr(errno, sys.argv[1]))
    os.execvp(sys.argv[3], sys.argv[3:])
