"""The cards of a node as its record names them.

Which card Ray gives to which actor is Ray's choice, and known only when the actor has answered: cards that have said their
name keep it, the others go by the names that are left.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count

import msgspec

from swarm.core.nodes.card_report import CardReport
from swarm.core.nodes.node_names import worker_name
from swarm.core.nodes.node_record import NodeCard, NodeRecord


class SlotState(msgspec.Struct, frozen=True, kw_only=True):
    """One card of a node, before it is known which."""

    slot: int
    report: CardReport | None = None
    serving: bool = False
    kept: bool = False
    """What was written of it before still stands."""
    reason: str = ""
    restarts: int = 0


def node_cards(node: str, slots: Sequence[SlotState], before: NodeRecord | None) -> tuple[NodeCard, ...]:
    """One for each slot, sorted by index; no name twice."""
    earlier = {card.card: card for card in (before.cards if before is not None else ())}
    named: dict[str, SlotState] = {}
    rest: list[SlotState] = []
    for state in sorted(slots, key=lambda s: (not s.serving, s.slot)):
        card = state.report.card if state.report is not None else ""
        if card and card not in named:
            named[card] = state
        else:
            rest.append(state)
    for state in sorted(rest, key=lambda s: (not s.kept, s.slot)):
        named[_left_name(state, named, earlier)] = state
    cards = (_card(node, name, state, earlier.get(name)) for name, state in named.items())
    return tuple(sorted(cards, key=lambda card: (card.index, card.card)))


def _left_name(state: SlotState, named: dict[str, SlotState], earlier: dict[str, NodeCard]) -> str:
    """For who keeps what was written, one that serves; for who does not, preferably one that does not."""
    left = [card for card in earlier.values() if card.card not in named]
    fits = [card.card for card in left if bool(card.url) is state.kept] or [card.card for card in left]
    return next(iter(fits), None) or next(_fresh(named))


def _fresh(named: dict[str, SlotState]) -> Iterator[str]:
    return (name for i in count() if (name := f"gpu{i}") not in named)


def _card(node: str, name: str, state: SlotState, earlier: NodeCard | None) -> NodeCard:
    worker = worker_name(node, name)
    if state.kept and earlier is not None and earlier.url:
        return earlier
    report = state.report
    seen = next((c for c in report.state.cards if c.card == name), None) if report is not None and report.state else None
    if seen is None:
        index = int(name[3:]) if name.startswith("gpu") and name[3:].isdecimal() else 0
        known = earlier or NodeCard(card=name, worker=worker, index=index)
        return msgspec.structs.replace(known, url="", reason=state.reason, restarts=state.restarts)
    return NodeCard(
        card=name,
        worker=worker,
        url=report.url if report is not None and state.serving else "",
        uuid=seen.uuid,
        index=seen.index,
        name=seen.name,
        vram_mib=seen.vram_mib,
        engines=seen.engines,
        simulated=seen.simulated,
        reason="" if state.serving else state.reason,
        restarts=state.restarts,
    )
