"""Pauses on disk: ``control/pauses.json``, replaced as a whole.

Workers and brain check it at the cost of a ``stat``.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable

import msgspec

from swarm.core.pauses import Pauses
from swarm.errors import QueueError
from swarm.filesystem.entries import status_of
from swarm.queue.layout import Layout
from swarm.queue.storage.files import Storage, read_regular, storage_faults
from swarm.queue.storage.locks import exclusive
from swarm.queue.storage.wakeup import wake

log = logging.getLogger(__name__)
_MAX_BYTES = 4 << 20


class PauseBook:
    """Follows the file."""

    def __init__(self, layout: Layout) -> None:
        self._path = layout.pauses
        self._stamp: tuple[int, int, int] | None = None
        self._known = Pauses()

    def read(self) -> Pauses:
        """What is paused now. A damaged file changes nothing, and is logged once. Raises ``OSError``: then ask again."""
        status = status_of(self._path)
        if status is None:
            self._stamp, self._known = None, Pauses()
            return self._known
        stamp: tuple[int, int, int] | None = (status.st_ino, status.st_mtime_ns, status.st_size)
        if stamp != self._stamp:
            try:
                self._known = _load(self._path)
            except FileNotFoundError:
                stamp, self._known = None, Pauses()
            except QueueError as problem:
                log.warning("%s; only the pauses read before stay in force", problem.message)
            self._stamp = stamp
        return self._known


def change(layout: Layout, storage: Storage, to: Callable[[Pauses], Pauses]) -> Pauses:
    """Change what is paused and wake everybody; one at a time. Raises ``QueueError`` (a damaged file), ``StorageFault``."""
    with storage_faults("the pause could not be recorded"):
        storage.make_dir(os.path.dirname(layout.pauses))
        with exclusive(storage, f"{layout.pauses}.lock"):
            try:
                before = _load(layout.pauses)
            except FileNotFoundError:
                before = Pauses()
            after = to(before)
            if after != before:
                storage.replace(layout.pauses, msgspec.json.format(msgspec.json.encode(after)) + b"\n", durable=True)
    wake(layout)
    return after


def _load(path: str) -> Pauses:
    try:
        return msgspec.json.decode(read_regular(path, _MAX_BYTES), type=Pauses)
    except (ValueError, RecursionError) as exc:
        raise QueueError(f"{path} is damaged: {exc}", hint="remove it, then pause again") from exc
