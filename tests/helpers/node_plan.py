"""What happens to the nodes of a storm, and when: a pure function of a seed.

* A node that is in trouble, or was a moment ago, is left alone by other events that name a node.
* At most half of the nodes are in a long trouble at a time: there is always an elsewhere.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import msgspec

HERE = ("brain", "supervisor", "driver")
"""Kinds of victims that belong to no node."""
OF_RELAYS = ("worker",) * 3 + ("brain", "supervisor") + ("relay",) * 3 + ("server",) * 3 + ("node",) * 2
OF_RAY = (*OF_RELAYS[:-2], "driver", "driver", "actor", "actor", "raylet", "raylet", "raylet")
LONG = ("freeze", "cut", "drain")
"""Kinds that last."""
LONG_SHARE = 0.25
"""Of all events."""
DISABLING = (*LONG, "node", "raylet")
"""After these a node is of no use for a while."""


class NodeEvent(msgspec.Struct, frozen=True, kw_only=True):
    """One stroke of bad luck."""

    at_s: float
    """Since the storm began."""
    kind: str
    node: int | None = None
    lasts_s: float = 0.0
    """How long it is frozen, cut off or drained, or how long what was killed stays away."""


class NodePlan(msgspec.Struct, frozen=True, kw_only=True):
    """One storm over nodes."""

    events: int
    tasks: int
    seed: int
    nodes: int
    """Of these the last one is added at half time."""
    cards: int = 1
    """Of each node."""
    slots: int = 4
    """Of each card."""
    kinds: tuple[str, ...] = OF_RELAYS
    long_kinds: tuple[str, ...] = LONG
    every_s: float = 2.5
    """Between two events, on average; more where one has to wait for a node that is well."""
    freeze_s: float = 30.0
    cut_s: float = 20.0
    drain_s: float = 15.0
    away_s: float = 3.0
    """Until a node or relay that was killed is started again."""
    rest_s: float = 5.0
    """What a node is given after its trouble, to be seen at work again."""
    head_s: float = 0.0
    """What all nodes are given when, at three quarters of the time, the head of their cluster starts anew. 0: no head."""

    @property
    def span_s(self) -> float:
        """How long it blows, at least."""
        return max((event.at_s for event in plan_events(self)), default=0.0)

    @property
    def request_s(self) -> float:
        """Long enough that work lasts about as long as the storm, of which a part of the cards sees nothing."""
        return max(0.02, 0.8 * self.span_s * self.nodes * self.cards * self.slots / self.tasks)


def plan_events(plan: NodePlan) -> tuple[NodeEvent, ...]:
    """All events in the order of their times: ``plan.events``, one that adds the last node, and that of the head."""
    return tuple(_events(plan))


def _events(plan: NodePlan) -> Iterator[NodeEvent]:
    dice = random.Random(f"events {plan.seed}")
    free_at = [0.0] * (plan.nodes - 1)
    long_until = [0.0] * (plan.nodes - 1)
    at_s = 0.0
    for number in range(plan.events):
        if number == plan.events // 2:
            yield NodeEvent(at_s=at_s, kind="add", node=plan.nodes - 1)
            free_at.append(at_s + plan.rest_s + plan.drain_s)
            long_until.append(0.0)
        if plan.head_s and number == plan.events * 3 // 4:
            yield NodeEvent(at_s=at_s, kind="head")
            free_at = [max(free_s, at_s + plan.head_s) for free_s in free_at]
        at_s += dice.expovariate(1 / plan.every_s)
        most = len(free_at) // 2
        kind = _kind(plan, dice, long=most > 0)
        if kind in HERE:
            yield NodeEvent(at_s=at_s, kind=kind)
            continue
        at_s = max(at_s, min(free_at))
        if kind in DISABLING:
            at_s = max(at_s, sorted(long_until, reverse=True)[most - 1])
        node = dice.choice([node for node, free_s in enumerate(free_at) if free_s <= at_s])
        lasts_s = _lasts_s(plan, kind)
        yield NodeEvent(at_s=at_s, kind=kind, node=node, lasts_s=lasts_s)
        free_at[node] = at_s + lasts_s + plan.rest_s
        if kind in DISABLING:
            long_until[node] = free_at[node]


def _kind(plan: NodePlan, dice: random.Random, *, long: bool) -> str:
    if long and plan.long_kinds and dice.random() < LONG_SHARE:
        return dice.choice(plan.long_kinds)
    return dice.choice([kind for kind in plan.kinds if long or kind not in DISABLING])


def _lasts_s(plan: NodePlan, kind: str) -> float:
    lasting = {"freeze": plan.freeze_s, "cut": plan.cut_s, "drain": plan.drain_s}
    away = {"node": plan.away_s, "raylet": plan.away_s, "relay": plan.away_s}
    return (lasting | away).get(kind, 0.0)
