"""What the Ray driver and the actor of one card say to each other; they travel as JSON, so that versions may differ."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from swarm.core.nodes.relay_wire import NodeState

CARD_RESOURCE = "swarm_card"
"""Ray's custom resource of a simulated card."""
SWARM_MISSING = "swarm is not installed in the Python that Ray runs there"
"""How a node without us is told of, to operators too."""


class CardPhase(StrEnum):
    """Where the relay of a card is in its life."""

    IDLE = "idle"
    """Nobody has asked for one yet."""
    STARTING = "starting"
    SERVING = "serving"
    ENDED = "ended"
    """It has ended, or could not start; the actor is of no more use."""


class CardOrder(msgspec.Struct, frozen=True, kw_only=True):
    """The relay that an actor is to start."""

    version: str
    """Of swarm beside the queue: another one refuses."""
    namespace: str
    """Of the queue: its relays of this card follow one another in one directory."""
    node: str
    """Name of the machine."""
    address: str
    """Where the relay is to listen."""
    slot: int
    """Simulated: index of the card. Else Ray chooses the card."""
    simulate: int | None
    """So many simulated cards has the machine; None: real ones."""
    token: str
    env: dict[str, str]
    """Settings, as ``SWARM_<SECTION>__<KEY>`` variables."""

    def __repr__(self) -> str:
        return f"CardOrder(node={self.node!r}, slot={self.slot})"  # neither token nor settings in a log


class CardReport(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """How the relay of a card is."""

    phase: CardPhase
    version: str
    """Of swarm over there."""
    card: str = ""
    """``gpu0``; empty while it is not known which card Ray gave."""
    url: str = ""
    """Base URL of the card; only while it serves."""
    reason: str = ""
    state: NodeState | None = None
    """As the relay says it; not asked for again."""
