"""Nodes in tables: a column where not everything is of this machine, and the node of each worker.

Documents always name the node; the empty name stands for this machine.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Protocol

from swarm.core.nodes.relay_workers import THIS_NODE
from swarm.queue.stores import registry
from swarm.views.blocks import Cell

if TYPE_CHECKING:
    from swarm.queue.layout import Layout


class OfNode(Protocol):
    """A row that is about something on a node."""

    @property
    def node(self) -> str: ...


def several_nodes(rows: Iterable[OfNode]) -> bool:
    """Whether anything of these is of another machine: a swarm on one machine shows no nodes."""
    return any(row.node for row in rows)


def worker_heads(shown: bool) -> tuple[str, ...]:  # noqa: FBT001
    """The column of workers, and that of nodes if it is shown: then names of workers may be long, and end in a card's."""
    return ("worker~~", "node~") if shown else ("worker",)


def node_cells(node: str | None, shown: bool) -> tuple[Cell | str, ...]:  # noqa: FBT001
    """Cell of the column of nodes, if that is shown; None: there is nothing that could be on a node."""
    if not shown:
        return ()
    return (Cell("-" if node is None else node or THIS_NODE, "" if node else "dim"),)


def nodes_of_workers(layout: Layout) -> dict[str, str]:
    """Machines of all registered workers that are on another one, by the worker's name. Raises ``StorageFault``."""
    return {name: row.node for name, row in registry.rows(layout).items() if row.node}
