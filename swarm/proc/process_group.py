"""Ends process groups for good: ask, wait, kill, and believe it only when the kernel shows nobody left."""

from __future__ import annotations

import os
import signal as signals
import time

from swarm.core.worker import ProcessIdentity
from swarm.proc import identity as identities
from swarm.proc.identity import all_pids, read_stat

KILL_WAIT_S = 5.0
"""How long a SIGKILL may take. Longer means the process is stuck in the kernel, and nothing we do will end it."""
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


def group_gone(pgid: int) -> bool:
    """Whether no living process is left in the group."""
    try:
        os.killpg(pgid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return not group_members(pgid)


class GroupStop:
    """The end of a process group in steps, so that many can end at the same time in one loop.

    The first signal goes out on construction, followed by SIGCONT: a stopped process acts on SIGTERM only once it goes
    on. SIGKILL follows after ``grace_s`` and needs no such help. The caller vouches that ``pgid`` still means its group:
    true while the leader lives or has not been reaped.
    """

    def __init__(self, pgid: int, *, grace_s: float, sig: int = signals.SIGTERM) -> None:
        self._pgid = pgid
        self._kill_at = time.monotonic() + max(grace_s, 0.0)
        self._give_up_at = self._kill_at + KILL_WAIT_S
        self._killed = False
        if signal_group(pgid, sig):
            signal_group(pgid, signals.SIGCONT)

    @property
    def killed(self) -> bool:
        """Whether SIGKILL was needed."""
        return self._killed

    def step(self) -> bool | None:
        """Look once. True: proven gone. False: given up, something cannot be killed. None: call again."""
        if group_gone(self._pgid):
            return True
        now = time.monotonic()
        if now >= self._give_up_at:
            return False
        if now >= self._kill_at:
            # Again at each step: a member may have forked between two signals.
            self._killed = True
            signal_group(self._pgid, signals.SIGKILL)
        return None


class LoneStop:
    """Like ``GroupStop`` for one process that leads no group of its own, through its pidfd."""

    def __init__(self, identity: ProcessIdentity, *, grace_s: float, sig: int = signals.SIGTERM) -> None:
        self._identity = identity
        self._kill_at = time.monotonic() + max(grace_s, 0.0)
        self._give_up_at = self._kill_at + KILL_WAIT_S
        if identities.signal(identity, sig):
            identities.signal(identity, signals.SIGCONT)

    def step(self) -> bool | None:
        """Look once; answers as ``GroupStop.step`` does."""
        if not identities.is_same(self._identity):
            return True
        now = time.monotonic()
        if now >= self._give_up_at:
            return False
        if now >= self._kill_at:
            identities.signal(self._identity, signals.SIGKILL)
        return None


def kill_group(pgid: int, grace_s: float) -> bool:
    """SIGTERM, up to ``grace_s``, SIGKILL. True: nobody is left. Takes at most ``grace_s`` + ``KILL_WAIT_S``.

    False: a member is stuck in the kernel. Works on stopped processes. Call it before the leader is reaped, since a
    reaped leader's number can come to mean another group.
    """
    stop = GroupStop(pgid, grace_s=grace_s, sig=signals.SIGTERM if grace_s > 0 else signals.SIGKILL)
    pause_s = _POLL_S
    while (gone := stop.step()) is None:
        time.sleep(pause_s)
        pause_s = min(pause_s * 2, _POLL_MAX_S)
    return gone
