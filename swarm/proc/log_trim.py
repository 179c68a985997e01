"""Bounds the files to which processes append their stdout and stderr."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

from swarm.filesystem.entries import odd_words, status_of

DEFAULT_MAX_BYTES = 100 * 1024 * 1024


def rotate_if_large(path: Path, max_bytes: int = DEFAULT_MAX_BYTES) -> bool:
    """Before a start: move a large log to ``<name>.1``, replacing the one there. True: it was moved."""
    if _size(path) <= max_bytes:
        return False
    os.replace(path, path.with_name(f"{path.name}.1"))
    return True


def truncate_if_large(path: Path, max_bytes: int = DEFAULT_MAX_BYTES) -> bool:
    """While its writer runs: copy a large log to ``<name>.1`` and empty it. True: it was emptied.

    The writer appends (O_APPEND), so it goes on at the start; lines written between copy and truncation are lost.
    """
    if _size(path) <= max_bytes:
        return False
    backup = path.with_name(f"{path.name}.1")
    if odd_words(str(backup)):
        return False  # written to it would be followed, or block
    shutil.copyfile(path, backup)
    os.truncate(path, 0)
    return True


def _size(path: Path) -> int:
    """Of a regular file; 0 of anything else, which is none of ours."""
    status = status_of(str(path))
    return status.st_size if status is not None and stat.S_ISREG(status.st_mode) else 0
