"""Explains what it means that a worker's card is in another machine: where that is, and how it is."""

from __future__ import annotations

from swarm.core.explain.reason import Reason
from swarm.core.nodes.node_record import NodeCard, NodePhase, NodeRecord
from swarm.core.snapshot import SwarmSnapshot, WorkerView


def titled(worker: str, snapshot: SwarmSnapshot) -> str:
    """A worker's name, with its node where that is another machine and the name does not begin with it."""
    view = snapshot.worker(worker)
    node = view.node if view is not None else ""
    return f"{worker} (node {node})" if node and not worker.startswith(node) else worker


def node_troubles(view: WorkerView, record: NodeRecord | None) -> list[Reason]:
    """What keeps its machine from being used; nothing where that is well, or nobody but its relay tells of it."""
    if record is None:
        return []
    card = next((card for card in record.cards if card.worker == view.name), None)
    return _of_record(record) or ([_unserved(record, card)] if card is not None and not card.url else [])


def where(view: WorkerView) -> list[Reason]:
    """Where the card of a worker is, and what serves its models there; nothing for a card of this machine."""
    row = view.row
    if row is None or not row.node:
        return []
    relay, _, card = (row.url or "").rpartition("/cards/")
    said = view.heartbeat.server_version if view.alive and view.heartbeat is not None else ""
    server = f", and is served by {row.engines[0]} {said}" if said and row.engines else ""
    text = f"Its card {card} is on node {row.node}, reached through the relay at {relay}{server}."
    return [Reason("node", text, f"swarm logs --node {row.node} -n 30")]


def explain_card(record: NodeRecord, card: NodeCard) -> list[Reason]:
    """Why no worker runs for a card that a node has."""
    reasons = _of_record(record)
    if not card.url:
        return [*reasons, _unserved(record, card)]
    text = f"The relay of {record.name} serves {card.card}; its worker {card.worker} has not begun yet."
    return [*reasons, Reason("starting", text, "swarm logs supervisor -n 20")]


def _of_record(record: NodeRecord) -> list[Reason]:
    why = f": {record.reason}" if record.reason else ""
    since = f" since {record.since[:19].replace('T', ' ')}" if record.since else ""
    match record.phase:
        case NodePhase.LOST:
            text = f"Node {record.name} ({record.address}) is lost{since}{why}."
            return [Reason("node_lost", text, f"swarm doctor; on {record.name}: is it running, is the network?")]
        case NodePhase.DRAINING:
            text = f"Node {record.name} is being drained{since}: what runs there is finished, nothing more is begun."
            return [Reason("node_draining", text, f"swarm nodes resume {record.name}")]
        case NodePhase.DRAINED:
            text = f"Node {record.name} was drained{since}: its cards were given back."
            return [Reason("node_drained", text, f"swarm nodes resume {record.name}")]
        case NodePhase.UP:
            return []


def _unserved(record: NodeRecord, card: NodeCard) -> Reason:
    why = card.reason or "nobody says why"
    restarts = f" ({card.restarts} restarts)" if card.restarts else ""
    return Reason("card_unserved", f"No relay serves {card.card} of node {record.name}: {why}{restarts}.", "swarm doctor")
