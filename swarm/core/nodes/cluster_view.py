"""What the Ray driver sees in one tick, and what it then does: the values around ``cluster_plan.plan_cluster``."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

import msgspec

from swarm.core.nodes.card_report import CardReport
from swarm.core.nodes.node_record import NodeRecord
from swarm.core.policy.restart_backoff import RestartPolicy, RestartRecord

SILENT_S = 12.0
"""An actor that gives no answer for so long is cut off, frozen or lost: no worker of ours is kept for its card."""
HUNG_S = 90.0
"""An actor that has been silent for so long is ended, and another one asked for."""
SLOW_START_S = 10.0
"""Ray starts an actor within seconds; who waits longer is told what for."""


class SeenNode(msgspec.Struct, frozen=True, kw_only=True):
    """A living node of the cluster."""

    life: str
    """Ray's id of it: another one whenever it comes back."""
    name: str
    """As ``ray start --node-name`` or its host calls it."""
    address: str
    cards: int
    """How many cards it offers, in use or not."""


class ActorPhase(StrEnum):
    """Where the actor of a card is in its life, as the driver sees it."""

    WAITING = "waiting"
    """Ray has not started it yet."""
    FOUND = "found"
    """An earlier driver started it; it has not answered yet."""
    ANSWERING = "answering"
    SILENT = "silent"
    ENDING = "ending"
    """It was told to end; until it has, Ray has no other for this card."""
    ENDED = "ended"
    """It died, or it will be of no more use."""


class SeenActor(msgspec.Struct, frozen=True, kw_only=True):
    """The actor of one card."""

    life: str
    """Of its node."""
    slot: int
    """The how-manieth card of its node; which one is Ray's choice."""
    phase: ActorPhase
    for_s: float = 0.0
    """How long it has waited, or been silent."""
    served_s: float | None = None
    """ENDED: how long its relay had served; None: it never did."""
    report: CardReport | None = None
    """Its last answer."""
    reason: str = ""


class SlotKey(msgspec.Struct, frozen=True, order=True):
    """A card of a node over all lives of both."""

    node: str
    slot: int


class SlotMemory(msgspec.Struct, frozen=True, kw_only=True):
    """What is remembered of the actors of one slot."""

    record: RestartRecord = RestartRecord()
    reason: str = ""
    """How the last one ended."""
    pending: bool = False
    """Its next start is not due yet."""


class ClusterView(msgspec.Struct, frozen=True, kw_only=True):
    """One look at the cluster and at our own directory."""

    now_s: float
    """Monotonic."""
    now_iso: str
    nodes: tuple[SeenNode, ...]
    actors: tuple[SeenActor, ...] = ()
    records: tuple[NodeRecord, ...] = ()
    """Ours, as they are on disk."""
    taken: frozenset[str] = frozenset()
    """Names of nodes that are not ours."""
    drains: frozenset[str] = frozenset()
    living: frozenset[str] = frozenset()
    """Names of workers that run."""
    memory: Mapping[SlotKey, SlotMemory] = {}
    policy: RestartPolicy = RestartPolicy()


class PlaceActor(msgspec.Struct, frozen=True, kw_only=True):
    """Have Ray start the actor of this card."""

    node: SeenNode
    name: str
    """Of the node, as we call it."""
    slot: int


class EndActor(msgspec.Struct, frozen=True, kw_only=True):
    """End this actor, with its relay and servers."""

    life: str
    slot: int
    reason: str


class ClusterPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be done, and how the nodes are then."""

    place: tuple[PlaceActor, ...] = ()
    end: tuple[EndActor, ...] = ()
    records: tuple[NodeRecord, ...] = ()
    memory: Mapping[SlotKey, SlotMemory] = {}
