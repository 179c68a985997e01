"""Answers given before, by key, under ``cache/``: bounded, shared by all workers of a root, and free to be deleted.

Each of 256 directories holds its share of the bound; what was used longest ago goes first. Nothing is flushed: an entry
that a power cut tears is no entry.
"""

from __future__ import annotations

import os
import re
import stat
import threading
from contextlib import suppress

from swarm.filesystem.entries import list_names, status_of
from swarm.queue.layout import Layout
from swarm.queue.storage.files import Storage, read_regular

SHARDS = 256
_ENTRY = re.compile(r"[0-9a-f]+\.json").fullmatch
LARGEST_SHARE = 4
"""An entry that would take more than one part in so many of its directory's share is not kept."""


class AnswerFiles:
    """Fits the ``AnswerStore`` port. Safe from several threads and processes."""

    def __init__(self, layout: Layout, *, max_bytes: int) -> None:
        self._folder = layout.cache
        self._storage = Storage("fast", layout.root)
        self._share = max_bytes // SHARDS
        self._lock = threading.Lock()

    def get(self, key: str) -> bytes | None:
        """What was put under this key of at least three hex digits, and a note that it was used; None: nothing."""
        path = self._path(key)
        try:
            data = read_regular(path, self._share)
        except (OSError, ValueError):
            return None
        with suppress(OSError):
            os.utime(path, follow_symlinks=False)
        return data

    def put(self, key: str, data: bytes) -> bool:
        """Keep it, in place of an earlier one; False: too large. Raises ``OSError`` when the disk refuses."""
        if len(data) * LARGEST_SHARE > self._share:
            return False
        path = self._path(key)
        with self._lock:
            self._storage.make_dir(os.path.dirname(path))
            self._storage.replace(path, data, durable=False)
            self._shrink(os.path.dirname(path))
        return True

    def _path(self, key: str) -> str:
        return f"{self._folder}/{key[:2]}/{key[2:]}.json"

    def _shrink(self, folder: str) -> None:
        """Another process may remove the same files meanwhile; nobody misses one that is gone, but for one being written."""
        found: list[tuple[int, int, str]] = []
        for name in (n for n in list_names(folder) if not n.startswith(".")):
            info = status_of(f"{folder}/{name}")
            if info is not None and stat.S_ISREG(info.st_mode) and _ENTRY(name):
                found.append((info.st_mtime_ns, info.st_size, f"{folder}/{name}"))
        total = sum(size for _, size, _ in found)
        for _, size, path in sorted(found):
            if total <= self._share:
                return
            with suppress(FileNotFoundError):
                os.unlink(path)
            total -= size
