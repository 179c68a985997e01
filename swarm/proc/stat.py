"""Reads ``/proc/<pid>/stat``: the few fields that tell one process from another."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cache

import msgspec

from swarm.core.worker import ProcessIdentity

_DEAD_STATES = frozenset("ZXx")
_START_FIELD = 19
"""Field 22 of the file, counted from the state, which follows the command's closing parenthesis."""


class ProcessStat(msgspec.Struct, frozen=True):
    """One line of ``/proc/<pid>/stat``."""

    identity: ProcessIdentity
    state: str
    parent: int
    group: int

    @property
    def alive(self) -> bool:
        """False for a zombie: it has ended and only waits to be collected."""
        return self.state not in _DEAD_STATES


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
    )


def all_pids() -> Iterator[int]:
    """The numbers of all processes visible now."""
    for name in os.listdir("/proc"):
        if name.isdigit():
            yield int(name)
