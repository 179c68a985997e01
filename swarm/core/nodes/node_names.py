"""How we call the nodes of a cluster and the workers of their cards: the same whenever they come back, and never twice."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import count

from swarm.core.nodes.cluster_view import SeenNode
from swarm.core.nodes.node_record import NodeRecord

_BASE_CHARS = 20
"""A worker's name has 32 at most; ``-99-gpu123`` may follow."""
_ODD = re.compile(r"[^A-Za-z0-9_-]+")


def worker_name(node: str, card: str) -> str:
    """``box2-gpu0``; of a long name of a node its end, which tells machines apart."""
    end = _ODD.sub("-", card)[:20]
    return f"{_ODD.sub('-', node)[-(31 - len(end)) :].lstrip('_-') or 'node'}-{end}"


def node_names(nodes: Sequence[SeenNode], records: Iterable[NodeRecord], taken: Iterable[str] = ()) -> dict[str, str]:
    """By ``life``. A node keeps its name; one that comes back gets that of its address; of two that are called alike the
    second is ``box2-2``.
    """
    known = tuple(records)
    used = set(taken)
    names: dict[str, str] = {}

    def give(node: SeenNode, name: str) -> None:
        names[node.life] = name
        used.add(name)

    by_life = {record.life: record.name for record in known}
    for node in nodes:
        if node.life in by_life and by_life[node.life] not in used:
            give(node, by_life[node.life])
    for node in sorted((n for n in nodes if n.life not in names), key=lambda n: (n.name, n.address, n.life)):
        base = _ODD.sub("-", node.name).lstrip("_-")[:_BASE_CHARS].rstrip("_-") or "node"
        family = re.compile(re.escape(base) + r"(-[0-9]+)?").fullmatch
        before = (r.name for r in known if r.address == node.address and family(r.name) and r.name not in used)
        fresh = (name for i in count(1) if (name := base if i == 1 else f"{base}-{i}") not in used)
        give(node, next(before, None) or next(fresh))
    return names
