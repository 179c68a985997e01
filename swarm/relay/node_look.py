"""What is looked up of a whole node at once: its cards by the driver, and which processes serve which card."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import msgspec

from swarm.core.gpu_reading import GpuReading
from swarm.proc.env_markers import MODEL_MARKER, ROOT_MARKER, SERVER_MARKER, find_marked_values
from swarm.runtime.ports import GpuReader


class NodeFacts(msgspec.Struct, frozen=True, kw_only=True):
    """A node at one moment."""

    readings: tuple[GpuReading, ...]
    pids: dict[str, tuple[int, ...]]
    """By card, of its servers and their runners."""


def node_look(reader: GpuReader, root: Path) -> Callable[[], NodeFacts]:
    """A look at this node, for one thread."""

    def look() -> NodeFacts:
        pids: defaultdict[str, set[int]] = defaultdict(set)
        for marker in (SERVER_MARKER, MODEL_MARKER):
            for process, card in find_marked_values(marker, **{ROOT_MARKER: str(root)}).items():
                pids[card].add(process.pid)
        return NodeFacts(readings=reader.read(), pids={card: tuple(sorted(found)) for card, found in pids.items()})

    return look
