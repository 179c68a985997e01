"""A directory held open: asking for its state again and again then spares the kernel the way along its path."""

from __future__ import annotations

import errno
import os
import weakref

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
