"""Ends process groups: SIGTERM, a grace period, SIGKILL.

A group has ended only when the kernel shows no member left.
"""

from __future__ import annotations

import math
import os
import signal as signals
import time
from abc import ABC, abstractmethod

from swarm.core.worker import ProcessIdentity
from swarm.proc import identity as identities
from swarm.proc.identity import all_pids, read_stat

KILL_WAIT_S = 5.0
"""How long a SIGKILL may take once it was sent. Longer means: stuck in the kernel, and nothing we do will end it."""
_POLL_S = 0.005
_POLL_MAX_S = 0.1


def group_members(pgid: int) -> tuple[ProcessIdentity, ...]:
    """Living members of a process group; zombies do not count."""
    stats = (read_stat(pid) for pid in all_pids())
    return tuple(s.identity for s in stats if s is not None and s.alive and s.group == pgid)


def signal_group(pgid: int, sig: int) -> bool:
    """Signal all members of a group; False: there is no such group. Raises ``ValueError`` for our own group or init's."""
    if pgid <= 1 or pgid == os.getpgrp():
        raise ValueError(f"refusing to signal process group {pgid}")
    try:
        os.killpg(pgid, sig)
    except ProcessLookupError:
        return False
    return True


class _Stop(ABC):
    """An end in steps, so that many can end at the same time in one loop.

    The first signal goes out on construction, followed by SIGCONT: a stopped process acts on SIGTERM only once it goes
    on. SIGKILL follows after ``grace_s`` and needs no such help.
    """

    def __init__(self, grace_s: float, sig: int) -> None:
        self._kill_at = time.monotonic() + max(grace_s, 0.0)
        self._give_up_at = math.inf  # whoever calls may have stood still until now, and killed nothing yet
        if self._signal(sig):
            self._signal(signals.SIGCONT)

    def step(self) -> bool | None:
        """Look once. True: proven ended. False: given up, something cannot be killed. None: call again."""
        if self._gone():
            return True
        now = time.monotonic()
        if now >= self._give_up_at:
            return False
        if now >= self._kill_at:
            self._give_up_at = min(self._give_up_at, now + KILL_WAIT_S)
            self._signal(signals.SIGKILL)  # again at each step: a member may have forked between two signals
        return None

    @abstractmethod
    def _signal(self, sig: int) -> bool: ...

    @abstractmethod
    def _gone(self) -> bool: ...


class GroupStop(_Stop):
    """The end of a process group. The caller vouches that ``pgid`` means it: its leader lives, or has not been reaped."""

    def __init__(self, pgid: int, *, grace_s: float, sig: int = signals.SIGTERM) -> None:
        self._pgid = pgid
        super().__init__(grace_s, sig)

    def _signal(self, sig: int) -> bool:
        return signal_group(self._pgid, sig)

    def _gone(self) -> bool:
        try:
            os.killpg(self._pgid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            return False
        return not group_members(self._pgid)


class LoneStop(_Stop):
    """The end of one process that leads no group of its own, through its pidfd."""

    def __init__(self, identity: ProcessIdentity, *, grace_s: float, sig: int = signals.SIGTERM) -> None:
        self._identity = identity
        super().__init__(grace_s, sig)

    def _signal(self, sig: int) -> bool:
        return identities.signal(self._identity, sig)

    def _gone(self) -> bool:
        return not identities.is_same(self._identity)


def kill_group(pgid: int, grace_s: float) -> bool:
    """SIGTERM, up to ``grace_s``, SIGKILL. True: no member is left. Takes at most ``grace_s`` + ``KILL_WAIT_S``.

    False: a member is stuck in the kernel. Works on stopped processes. Call it before the leader is reaped, since a
    reaped leader's number can come to mean another group.
    """
    stop = GroupStop(pgid, grace_s=grace_s, sig=signals.SIGTERM if grace_s > 0 else signals.SIGKILL)
    pause_s = _POLL_S
    while (gone := stop.step()) is None:
        time.sleep(pause_s)
        pause_s = min(pause_s * 2, _POLL_MAX_S)
    return gone
