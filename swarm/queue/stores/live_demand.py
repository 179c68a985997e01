"""``live/demand.json``: which models the clients of the HTTP server wait for.

* One writer, the HTTP server under its process lock. Replaced whole, unflushed: a power cut ends the waiting clients too.
* A file whose process has ended says nothing; so does one that is damaged.
"""

from __future__ import annotations

import logging

import msgspec

from swarm.core.live.demand import LiveDemand
from swarm.errors import OddEntry
from swarm.filesystem.entries import read_file
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
    try:
        found = _decode(read_file(layout.live_demand, _MAX_BYTES))
    except FileNotFoundError:
        return None
    except (OddEntry, ValueError, RecursionError) as error:
        log.warning("%s is ignored: %s", layout.live_demand, error)
        return None
    return found if found.models and is_same(found.process) else None
