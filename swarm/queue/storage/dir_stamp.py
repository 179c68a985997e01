"""Whether a directory holds anything, asked very often.

A directory held open: asking for its state again and again then spares the kernel the way along its path.
"""

from __future__ import annotations

import errno
import os
import time
import weakref

from swarm.filesystem.entries import folder_status
from swarm.queue.layout import GRAIN_NS

_AGAIN_S = 0.0005
"""Asked again sooner than this it answers as before: nobody acts on a change so quickly, a process takes longer to wake."""


class Occupied:
    """Costs one ``stat`` while the directory does not change, and nothing when asked thousands of times a second."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._seen_ns = -1
        self._answer = False
        self._asked_s = 0.0

    def any(self) -> bool:
        """Whether anything lies in it, or did half a millisecond ago; False when it is not there.

        True where that cannot be told: who looks for what lies there hears of the fault, and nothing is passed over.
        """
        now_s = time.monotonic()
        if now_s - self._asked_s < _AGAIN_S:
            return self._answer
        self._asked_s = now_s
        try:
            status = folder_status(self._folder)
            if status is None:
                self._answer = False
                return False
            changed_ns = status.st_mtime_ns
            if changed_ns != self._seen_ns:
                settled = time.time_ns() - changed_ns > GRAIN_NS
                with os.scandir(self._folder) as entries:
                    self._answer = next(entries, None) is not None
                self._seen_ns = changed_ns if settled else -1
        except FileNotFoundError:
            self._answer = False
        except OSError:
            self._answer, self._seen_ns = True, -1
        return self._answer


_NONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EACCES)


class OpenFolder:
    """Follows the directory, not the path: who must know that another one lies there now makes a new object.

    Raises ``FileNotFoundError`` where there is no directory, or one that may not be read.
    """

    def __init__(self, path: str) -> None:
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as exc:
            if exc.errno not in _NONE:
                raise
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path) from exc
        weakref.finalize(self, os.close, self._fd)

    def status(self) -> os.stat_result:
        """Its state now."""
        return os.fstat(self._fd)
