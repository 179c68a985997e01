"""Which node (machine) has which model on its disk, as its workers' servers list it. Pure.

* A node has a model that a living worker there lists or holds: the cards of a node share its disk.
* A worker's node lacks a model only where another node has it. Where nobody lists it, a load finds out, as on one machine;
  so one machine alone never lacks anything.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache

import msgspec

from swarm.core.health.liveness import workers_of
from swarm.core.nodes.relay_workers import THIS_NODE
from swarm.core.snapshot import SwarmSnapshot, WorkerView


class LackedModel(msgspec.Struct, frozen=True, kw_only=True):
    """A model that tasks wait for, that some nodes have, and that a node with idle cards has not."""

    model: str
    waiting: int
    node: str
    """The one that lacks it."""
    idle: tuple[str, ...]
    """Its workers that have nothing to do."""
    found_on: tuple[str, ...]
    """Nodes that have it."""


def node_name(node: str) -> str:
    """As an operator calls it."""
    return node or THIS_NODE


def nodes_with(model: str, snapshot: SwarmSnapshot) -> frozenset[str]:
    """The nodes that have a model (canonical name)."""
    return _found(_Workers(snapshot.workers)).get(model, frozenset())


def absent(view: WorkerView, model: str, snapshot: SwarmSnapshot) -> str | None:
    """Says that a worker's node lacks a model that another node has; None otherwise."""
    found = nodes_with(model, snapshot)
    mine = view.node
    return None if not found or mine in found else absent_words(mine, model, found)


def absent_words(node: str, model: str, found: Iterable[str]) -> str:
    """A node that lacks a model, and those that have it."""
    return f"{node_name(node)} lists no model {model} for its cards, {', '.join(sorted(map(node_name, found)))} does"


def how_to_get(model: str, node: str) -> str:
    """The command that brings a model to a node."""
    return f"swarm models pull {model} --node {node_name(node)}"


def lacked_models(snapshot: SwarmSnapshot) -> Iterator[LackedModel]:
    """Where cards are idle although tasks wait for a model: only other nodes have it."""
    views = [view for view in workers_of(snapshot) if view.alive and view.row is not None and view.row.url is not None]
    nodes = sorted({view.node for view in views})
    if len(nodes) < 2:
        return
    waiting, claims = snapshot.llm_pending(), Counter(claim.worker for claim in snapshot.claims)
    idle = [view for view in views if not claims[view.name] and not _has_work(view, waiting)]
    for model in sorted(model for model in waiting if snapshot.pauses.model(model) is None):
        found = nodes_with(model, snapshot)
        for node in nodes if found else ():
            names = tuple(view.name for view in idle if view.node == node)
            if names and node not in found:
                yield LackedModel(
                    model=model,
                    waiting=waiting[model],
                    node=node,
                    idle=names,
                    found_on=tuple(sorted(found)),
                )


class _Workers:
    """Those of one snapshot, told from others by identity."""

    def __init__(self, views: tuple[WorkerView, ...]) -> None:
        self.views = views

    def __hash__(self) -> int:
        return id(self.views)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Workers) and self.views is other.views


@lru_cache(maxsize=1)
def _found(workers: _Workers) -> Mapping[str, frozenset[str]]:
    """Nodes by model. One decision asks for each pair of worker and model."""
    found: dict[str, set[str]] = {}
    for view in workers.views:
        beat = view.heartbeat if view.alive else None
        if beat is not None:
            for model in (*([beat.model] if beat.model else ()), *beat.refused, *beat.servable):
                found.setdefault(model, set()).add(view.node)
    return {model: frozenset(nodes) for model, nodes in found.items()}


def _has_work(view: WorkerView, waiting: dict[str, int]) -> bool:
    return view.heartbeat is not None and (view.heartbeat.model or "") in waiting
