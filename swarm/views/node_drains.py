"""What ``swarm nodes drain`` and ``swarm nodes resume`` do and answer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import msgspec

from swarm.core.nodes.relay_workers import THIS_NODE
from swarm.errors import InputError, UnknownName, name_hint
from swarm.queue.stores.node_book import drained_nodes, read_nodes, wish_drain
from swarm.runtime.open import lives, open_queue
from swarm.supervisor.state import NAME
from swarm.views.node_rows import planned_nodes

if TYPE_CHECKING:
    from swarm.config.settings import Settings


class NodeDrain(msgspec.Struct, frozen=True, kw_only=True):
    """One machine."""

    node: str
    outcome: str


class NodesChanged(msgspec.Struct, frozen=True, kw_only=True):
    """`swarm nodes drain` and `swarm nodes resume`."""

    nodes: tuple[NodeDrain, ...]


def change_drain(settings: Settings, names: Iterable[str], *, drain: bool) -> NodesChanged:
    """Have these machines drained, or used again; the supervisor sees it within a second.

    Raises ``UnknownName`` before anything is changed; ``InputError`` for this machine; ``StorageFault``.
    """
    queue = open_queue(settings)
    layout = queue.layout
    drained = drained_nodes(layout)
    known = {plan.node for plan in planned_nodes(settings)} | {record.name for record in read_nodes(layout)} | drained
    wanted = tuple(dict.fromkeys(names))
    for name in wanted:
        if name == THIS_NODE:
            hint = "`swarm down` ends all of it, `swarm queue pause` lets nothing new begin"
            raise InputError(f"{name} is this machine, which has the queue", hint=hint)
        if name not in known:
            hint = name_hint(name, known) if known else "all cards are of this machine"
            raise UnknownName(f"there is no other machine {name}", hint=hint)
    for name in wanted:
        if (name in drained) != drain:
            wish_drain(layout, queue.storage, name, drain=drain)
    up = lives(settings, NAME)
    return NodesChanged(nodes=tuple(NodeDrain(node=n, outcome=_outcome(n in drained, drain=drain, up=up)) for n in wanted))


def _outcome(was: bool, *, drain: bool, up: bool) -> str:  # noqa: FBT001
    if was == drain:
        return "is drained already" if drain else "is not drained"
    if not up:
        return "is left out when the swarm comes up" if drain else "is used again when the swarm comes up"
    return "is drained: its workers finish what they run and take no more" if drain else "is used again"
