"""``nodes/<node>.json``: a machine whose cards a node source (the Ray driver) found, as it writes it.

* The supervisor keeps one worker for each card with a ``url``; a card whose ``url`` changes gets its worker anew.
* ``nodes/<node>.drain`` is the operator's wish, made and removed by ``swarm nodes drain`` and ``swarm nodes resume``.
* ``nodes/token`` (0600) is the token of all relays that the source started.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

RAY = "ray"
"""The node source: the Ray driver."""


class NodePhase(StrEnum):
    """Where a node is in its life."""

    UP = "up"
    DRAINING = "draining"
    """Its workers finish what runs and take no more."""
    DRAINED = "drained"
    """No worker of ours works there, and its cards were given back."""
    LOST = "lost"
    """The source does not see it any more, or it does not answer."""


class NodeCard(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One card of a node."""

    card: str
    """``gpu0``."""
    worker: str
    """Name of its worker here: the same for the same card of the same node, whenever it comes back."""
    url: str = ""
    """Base URL of the card at its relay; empty while none serves it."""
    uuid: str = ""
    index: int = 0
    name: str = ""
    vram_mib: int | None = None
    engines: tuple[str, ...] = ("ollama",)
    simulated: bool = False
    reason: str = ""
    """Why there is no ``url``."""
    restarts: int = 0


class NodeRecord(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One node."""

    name: str
    source: str
    """``ray``."""
    address: str
    """Its IP address or host name."""
    phase: NodePhase
    reason: str = ""
    since: str = ""
    """When it came into this phase, ISO 8601."""
    life: str = ""
    """The source's own id of this life of the node."""
    version: str = ""
    """Of swarm there."""
    engine_versions: dict[str, str] = msgspec.field(default_factory=dict)
    cards: tuple[NodeCard, ...] = ()


class NodesSeen(msgspec.Struct, frozen=True):
    """What lies in ``nodes/``."""

    records: tuple[NodeRecord, ...] = ()
    """By name."""
    drains: frozenset[str] = frozenset()
    """Names of nodes that are to be drained, whether there is a record of them or not."""
