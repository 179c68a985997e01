"""Cards and workers as one table: a row for each card with the worker that owns it, then workers without a card.

Where there are several nodes the rows are grouped by them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from swarm.views.node_words import several_nodes
from swarm.views.worker_rows import CardRow, WorkerLine


class Place(NamedTuple):
    """One row. A worker with several cards has several, of which the first says what it does."""

    card: CardRow | None
    worker: WorkerLine | None
    first: bool


def places(cards: Sequence[CardRow], workers: Sequence[WorkerLine]) -> list[Place]:
    """By card; the cards of one worker stand together."""
    by_name = {worker.name: worker for worker in workers}
    rows: list[Place] = []
    placed: set[str] = set()
    for card in cards:
        worker = by_name.get(card.worker or "")
        if worker is None:
            rows.append(Place(card, None, first=True))
        elif worker.name not in placed:
            placed.add(worker.name)
            own = [other for other in cards if other.worker == worker.name]
            rows += [Place(other, worker, first=other is own[0]) for other in own]
    rows += [Place(None, worker, first=True) for worker in workers if worker.name not in placed]
    return rows


class PlaceGroup(NamedTuple):
    """The rows of one node."""

    node: str | None
    """None where nothing is of another machine; the empty name is this one."""
    places: list[Place]
    cards: int


def place_groups(cards: Sequence[CardRow], workers: Sequence[WorkerLine]) -> list[PlaceGroup]:
    """By node, this machine first."""
    if not several_nodes(cards) and not several_nodes(workers):
        rows = places(cards, workers)
        return [PlaceGroup(None, rows, len(cards))] if rows else []
    groups = []
    for node in sorted({card.node for card in cards} | {worker.node for worker in workers}):
        own = [card for card in cards if card.node == node]
        groups.append(PlaceGroup(node, places(own, [row for row in workers if row.node == node]), len(own)))
    return groups


def common_name(cards: Sequence[CardRow]) -> str | None:
    """What all cards are called, where that is one name."""
    names = {card.name for card in cards}
    return next(iter(names)) if len(names) == 1 else None
