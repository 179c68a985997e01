"""Directory timestamps: whether a directory may have changed since it was listed.

* Every name that comes or goes moves the change time of its directory, and nobody can set that time.
* It moves in steps of up to ``GRAIN_NS``: right after a change a second one may hide behind the same time. So a listing
  is trusted later only if the directory had been quiet for longer than a step *before* the listing began.
"""

from __future__ import annotations

import os
import time

import msgspec

from swarm.filesystem.entries import folder_status

GRAIN_NS = 40_000_000
"""Directory times move in steps (measured: up to 20 ms); a change younger than twice that may hide another."""
_AGAIN_S = 0.0005
"""Asked again sooner than this it answers as before: nobody acts on a change so quickly, a process takes longer to wake."""


class DirStamp(msgspec.Struct, frozen=True, array_like=True):
    """A directory as it was right before it was listed."""

    inode: int
    changed_ns: int
    quiet_ns: int
    """For how long nothing had changed; below zero where the clock was set back."""

    @property
    def settled(self) -> bool:
        """Whether every later change shows in the time of change."""
        return self.quiet_ns > GRAIN_NS

    def unchanged_since(self, earlier: DirStamp | None) -> bool:
        """Whether a listing made behind the ``earlier`` stamp is still true; never without one."""
        return (
            earlier is not None and earlier.settled and earlier.changed_ns == self.changed_ns and earlier.inode == self.inode
        )


def stamp_of(path: str) -> DirStamp | None:
    """Take it before the listing; None if there is no such directory. Raises ``OSError``."""
    status = folder_status(path)
    return None if status is None else stamp_from(status)


def stamp_from(status: os.stat_result) -> DirStamp:
    """The stamp of a directory whose status was read just now."""
    changed_ns = change_time(status)
    return DirStamp(status.st_ino, changed_ns, time.time_ns() - changed_ns)


def change_time(status: os.stat_result) -> int:
    """Nanoseconds since the epoch."""
    return status.st_ctime_ns


class Occupied:
    """Whether a directory holds anything. One ``stat`` while it does not change, and at most one each half millisecond."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._seen: DirStamp | None = None
        self._answer = False
        self._asked_s = 0.0

    def any(self) -> bool:
        """Whether anything lies in it, or did half a millisecond ago; False when it is not there.

        True where that cannot be read: whoever then looks for what lies there gets the error, and nothing is passed over.
        """
        now_s = time.monotonic()
        if now_s - self._asked_s >= _AGAIN_S:
            self._asked_s = now_s
            try:
                self._answer = self._look()
            except OSError:
                self._answer, self._seen = True, None
        return self._answer

    def _look(self) -> bool:
        now = stamp_of(self._folder)
        if now is None:
            return False
        if now.unchanged_since(self._seen):
            return self._answer
        self._seen = None
        try:
            with os.scandir(self._folder) as entries:
                found = next(entries, None) is not None
        except FileNotFoundError:
            return False
        self._seen = now
        return found
