"""What was counted, written down for the next command: ``control/counts``.

A hint that costs nothing to lose. Each count in it names the directory and the time of that directory's last change, and is
used only where both are still so; a file that is damaged, of another version or unreadable is as good as none.
"""

from __future__ import annotations

import zlib
from contextlib import suppress
from typing import Annotated

import msgspec

from swarm.queue.layout import Layout
from swarm.queue.stats.dir_counts import Known
from swarm.queue.storage.files import Storage, read_regular

QUIET_NS = 3_000_000_000
"""Written down is only what had been quiet for so long: times of some file systems move in steps of up to two seconds."""
WORTH_FILES = 20_000
"""Nothing is written for less: so many names are listed again in ten milliseconds."""
_MAX_BYTES = 256 << 20
_VERSION = 2


class _Saved(msgspec.Struct, frozen=True):
    version: Annotated[int, msgspec.Meta(ge=_VERSION, le=_VERSION)]
    folders: dict[str, Known]


class CountFile:
    """Read once, written when it is worth it."""

    def __init__(self, layout: Layout, storage: Storage) -> None:
        self._path = layout.counts
        self._storage = storage
        self._saved: dict[str, Known] = {}

    def load(self) -> dict[str, Known]:
        """By directory (relative to the root), what was counted inside it; {} where nothing usable is written."""
        with suppress(OSError, ValueError):  # a hint: whatever is wrong with it, the directories themselves answer
            head, _, body = read_regular(self._path, _MAX_BYTES).partition(b"\n")
            if int(head, 16) == zlib.crc32(body):
                self._saved = msgspec.json.decode(body, type=_Saved).folders
        return self._saved

    def save(self, counted: dict[str, Known]) -> None:
        """Write down what may be kept, if it is worth it: replaced as a whole, never flushed. Never fails."""
        kept = {path: {n: f for n, f in known.items() if f.quiet_ns > QUIET_NS} for path, known in counted.items()}
        if sum(self._fresh(path, known) for path, known in kept.items()) < WORTH_FILES:
            return
        self._saved = kept  # also where it cannot be written: it would fail again and again
        body = msgspec.json.encode(_Saved(_VERSION, kept))
        with suppress(OSError):  # a full or read-only disk, or another's queue: the next command counts again
            self._storage.replace(self._path, b"%08x\n%b" % (zlib.crc32(body), body), durable=False)

    def _fresh(self, path: str, known: Known) -> int:
        """Files in what is not written down yet."""
        saved = self._saved.get(path, {})
        return sum(folder.files for name, folder in known.items() if saved.get(name) != folder)
