"""What happens to the nodes of a storm, and when: a pure function of a seed.

* A node that is in trouble, or was a moment ago, is left alone by other events that name a node.
* At most half of the nodes are in a long trouble at a time: there is always an elsewhere.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

import msgspec

HERE = ("brain", "supervisor", "driver")
"""Kinds of victims that belong to no node."""
OF_RELAYS = ("worker",) * 3 + ("brain", "supervisor") + ("relay",) * 3 + ("server",) * 3 + ("node",) * 2
OF_RAY = (*OF_RELAYS[:-2], "driver", "driver", "actor", "actor", "raylet", "raylet", "raylet")
LONG = ("freeze", "cut", "drain")
"""Kinds that last; about every third event is one of them."""


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
    every_s: float = 4.0
    """Between two events, on average."""
    freeze_s: float = 30.0
    cut_s: float = 20.0
    drain_s: float = 15.0
    away_s: float = 3.0
    """Until a node or relay that was killed is started again."""
    rest_s: float = 5.0
    """What a node is given after its trouble, to be seen at work again."""

    @property
    def span_s(self) -> float:
        """About how long it blows."""
        return self.events * self.every_s

    @property
    def request_s(self) -> float:
        """Long enough that work lasts about as long as the storm, of which a part of the cards sees nothing."""
        return max(0.02, 0.8 * self.span_s * self.nodes * self.cards * self.slots / self.tasks)


def plan_events(plan: NodePlan) -> tuple[NodeEvent, ...]:
    """All events in the order of their times: ``plan.events`` and, at half time, the one that adds the last node."""
    return tuple(sorted(_events(plan), key=lambda event: event.at_s))


def _events(plan: NodePlan) -> Iterator[NodeEvent]:
    dice = random.Random(f"events {plan.seed}")
    free_at = [0.0] * (plan.nodes - 1)
    long_until = [0.0] * plan.nodes
    added_s = plan.span_s / 2
    yield NodeEvent(at_s=added_s, kind="add", node=plan.nodes - 1)
    at_s, added = 0.0, False
    for _ in range(plan.events):
        at_s += dice.expovariate(1 / plan.every_s)
        if at_s > added_s and not added:
            free_at.append(added_s + plan.rest_s + plan.drain_s)
            added = True
        free = [node for node, free_s in enumerate(free_at) if free_s <= at_s]
        long_now = sum(until_s > at_s for until_s in long_until)
        kind = _kind(plan, dice, free=free, room=long_now < len(free_at) // 2)
        if kind in HERE:
            yield NodeEvent(at_s=at_s, kind=kind)
            continue
        node = dice.choice(free)
        lasts_s = _lasts_s(plan, kind)
        yield NodeEvent(at_s=at_s, kind=kind, node=node, lasts_s=lasts_s)
        free_at[node] = at_s + lasts_s + plan.rest_s
        if kind in (*LONG, "node", "raylet"):
            long_until[node] = free_at[node]


def _kind(plan: NodePlan, dice: random.Random, *, free: Sequence[int], room: bool) -> str:
    if free and room and plan.long_kinds and dice.random() < 1 / 3:
        return dice.choice(plan.long_kinds)
    kinds = [kind for kind in plan.kinds if kind in HERE or (free and (room or kind not in ("node", "raylet")))]
    return dice.choice(kinds)


def _lasts_s(plan: NodePlan, kind: str) -> float:
    lasting = {"freeze": plan.freeze_s, "cut": plan.cut_s, "drain": plan.drain_s}
    away = {"node": plan.away_s, "raylet": plan.away_s, "relay": plan.away_s}
    return (lasting | away).get(kind, 0.0)
