"""A directory held open: asking for its state again and again then spares the kernel the way along its path."""

from __future__ import annotations

import os
import weakref


class OpenFolder:
    """Follows the directory, not the path: who must know that another one lies there now makes a new object.

    Raises ``FileNotFoundError``, ``NotADirectoryError``.
    """

    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self._fd)

    def status(self) -> os.stat_result:
        """Its state now."""
        return os.fstat(self._fd)
