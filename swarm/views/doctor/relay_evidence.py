"""Evidence about other machines: their relays, asked as their workers ask, and the records of the node source."""

from __future__ import annotations

import os
import socket
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from ipaddress import ip_address
from pathlib import Path

from swarm.clock import parse_iso
from swarm.config.settings import Settings
from swarm.core.doctor.node_evidence import CardEvidence, NodeEvidence, RelayEvidence
from swarm.core.faults import TaskFault
from swarm.core.nodes.node_record import NodeRecord
from swarm.core.nodes.relay_workers import card_url
from swarm.core.placement.worker_plan import WorkerPlan
from swarm.engines.remote.relay_address import RelayAddress, holder_of
from swarm.engines.remote.relay_calls import RelayCalls
from swarm.errors import SwarmError
from swarm.queue.layout import Layout
from swarm.queue.stores.node_book import read_nodes
from swarm.views.doctor.process_evidence import readable
from swarm.worker.remote_wiring import relay_token_of

MOST_AT_ONCE = 16


def node_evidence(
    settings: Settings, plan: Sequence[WorkerPlan], living: Collection[str], now_s: float
) -> tuple[NodeEvidence, ...]:
    """Every node that a worker is planned for or a record tells of; all relays are asked at once.

    ``living``: workers that run. Only for them a card is asked for: asking takes a card that nobody uses.
    """
    layout = Layout(settings.queue.root)
    records = {record.name: record for record in readable((), read_nodes, layout)}
    relays: dict[tuple[str, str], list[WorkerPlan]] = {}
    for one in plan:
        place = card_url(one.url or "") if one.relay is not None else None
        if place is not None:
            relays.setdefault((one.node, place.base), []).append(one)

    def ask(plans: list[WorkerPlan]) -> RelayEvidence:
        return _relay(plans, living, settings, layout)

    with ThreadPoolExecutor(MOST_AT_ONCE) as pool:
        found = list(zip(relays, pool.map(ask, relays.values()), strict=True))
    names = sorted({node for node, _ in relays} | set(records))
    of_node = {name: tuple(relay for (node, _), relay in found if node == name) for name in names}
    return tuple(_node(name, records.get(name), of_node[name], now_s) for name in names)


def _node(name: str, record: NodeRecord | None, relays: tuple[RelayEvidence, ...], now_s: float) -> NodeEvidence:
    since_s = readable(None, parse_iso, record.since) if record is not None and record.since else None
    phase_s = None if since_s is None else max(0.0, now_s - since_s)
    return NodeEvidence(name=name, relays=relays, record=record, phase_s=phase_s)


def _relay(plans: Sequence[WorkerPlan], living: Collection[str], settings: Settings, layout: Layout) -> RelayEvidence:
    cards, version, engines, trouble, said = [_card(plan, "") for plan in plans], "", dict[str, str](), "", ""
    place = card_url(plans[0].url or "")
    assert place is not None
    try:
        with _asking(plans[0], settings, layout) as calls:
            told = calls.node()
        version, engines = told.version, told.engine_versions
        cards = [_card(plan, _refusal(plan, settings, layout) if plan.name in living else "") for plan in plans]
    except TaskFault as fault:
        trouble, said = fault.kind, fault.message
    except (SwarmError, OSError) as error:
        trouble, said = "no_token", str(getattr(error, "message", error))
    return RelayEvidence(
        url=place.base,
        cards=tuple(cards),
        trouble=trouble,
        said=said,
        version=version,
        engine_versions=engines,
        not_asked=trouble == "no_token" and any(plan.name in living for plan in plans),
        public_address=_public(place.host) if place.base.startswith("http:") else "",
    )


def _card(plan: WorkerPlan, refused: str) -> CardEvidence:
    assert plan.relay is not None
    return CardEvidence(card=plan.relay.card, worker=plan.name, refused=refused)


def _refusal(plan: WorkerPlan, settings: Settings, layout: Layout) -> str:
    try:
        with _asking(plan, settings, layout) as calls:
            calls.state()
    except TaskFault as fault:
        return fault.message
    return ""


def _asking(plan: WorkerPlan, settings: Settings, layout: Layout) -> closing[RelayCalls]:
    """Raises ``SwarmError`` and ``OSError`` where its token cannot be had. Before the first start there is no holder yet."""
    assert plan.url is not None
    token = relay_token_of(plan, settings, layout, os.environ)
    holder = holder_of(Path(layout.root)) if os.path.isdir(layout.root) else ""
    return closing(RelayCalls(RelayAddress(url=plan.url, token=token, holder=holder)))


def _public(host: str) -> str:
    """An address of this host that is no private one, as far as it can be looked up."""
    try:
        found = {str(entry[4][0]).partition("%")[0] for entry in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)}
        return next((address for address in sorted(found) if ip_address(address).is_global), "")
    except (OSError, ValueError, UnicodeError):
        return ""
