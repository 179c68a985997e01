"""Notices that another directory is in place of the queue root was: swapped, mounted over, moved away, removed.

Whoever goes on by the path would work in a tree that it never looked at, and that somebody else may have put there.
"""

from __future__ import annotations

import os
import weakref


class RootGuard:
    """Holds the root open, so that its number is not given to another directory. Raises ``OSError`` when made."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._fd = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self._fd)

    def trouble(self) -> str:
        """What happened to it, for people; empty while it is where it was. Costs two calls."""
        try:
            now = os.stat(self._root)
        except (FileNotFoundError, NotADirectoryError):
            return f"the queue root {self._root} is gone"
        except OSError:
            return ""  # a disk or a network in trouble, which tells so itself
        if os.path.samestat(now, os.fstat(self._fd)):
            return ""
        return f"another directory is in place of the queue root {self._root}"
