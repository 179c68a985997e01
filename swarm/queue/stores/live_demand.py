"""``live/demand.json``: which models the clients of the HTTP server wait for.

* One writer, the HTTP server under its process lock. Replaced whole, unflushed: a power cut ends the waiting clients too.
* A file whose process has ended says nothing; so does one that is damaged.
* ``DemandBook`` looks at it again and again, at the cost of a ``stat`` while it is unchanged.
"""

from __future__ import annotations

import logging

import msgspec

from swarm.core.live.demand import LiveDemand
from swarm.errors import OddEntry
from swarm.filesystem.entries import read_file, status_of
from swarm.proc.identity import is_same
from swarm.queue.layout import Layout
from swarm.queue.storage import Storage, storage_faults

_MAX_BYTES = 1 << 20
_decode = msgspec.json.Decoder(LiveDemand).decode
log = logging.getLogger(__name__)


def write_demand(layout: Layout, storage: Storage, demand: LiveDemand) -> None:
    """Replace the file atomically. Raises ``StorageFault``."""
    with storage_faults("what live requests wait for cannot be written"):
        storage.make_dir(layout.live)
        storage.replace(layout.live_demand, msgspec.json.encode(demand), durable=False)


@storage_faults("what live requests wait for cannot be read")
def read_demand(layout: Layout) -> LiveDemand | None:
    """What live requests want now; None without a living HTTP server that has any. Raises ``StorageFault``."""
    return DemandBook(layout).read()


class DemandBook:
    """Follows the file; used by one thread."""

    def __init__(self, layout: Layout) -> None:
        self._path = layout.live_demand
        self._stamp: tuple[int, int, int] | None = None
        self._known: LiveDemand | None = None

    def read(self) -> LiveDemand | None:
        """What live requests want now, None if nothing. A damaged file is logged once. Raises ``OSError``: then ask again.

        One ``stat`` while the file is unchanged, and while it names a model a look whether its process lives.
        """
        status = status_of(self._path)
        stamp = None if status is None else (status.st_ino, status.st_mtime_ns, status.st_size)
        if stamp != self._stamp:
            self._known = None if stamp is None else _load(self._path)
            self._stamp = stamp
        known = self._known
        return known if known is not None and known.models and is_same(known.process) else None


def _load(path: str) -> LiveDemand | None:
    try:
        return _decode(read_file(path, _MAX_BYTES))
    except FileNotFoundError:
        return None
    except (OddEntry, ValueError, RecursionError) as error:
        log.warning("%s is ignored: %s", path, error)
        return None
