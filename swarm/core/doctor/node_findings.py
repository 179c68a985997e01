"""Findings about other machines: relays that do not answer or refuse, mixed versions, lost nodes, cards without a worker."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from swarm.core.doctor.evidence import BoxEvidence, DoctorFinding, critical, warning
from swarm.core.doctor.node_evidence import NodeEvidence, RelayEvidence
from swarm.core.nodes.node_record import NodePhase
from swarm.core.nodes.relay_workers import THIS_NODE

LOST_S = 60.0
"""A node that is lost for less may be on its way back."""
_VERSION = re.compile(r"\d[\w.+-]*")


def node_findings(evidence: BoxEvidence) -> Iterator[DoctorFinding]:
    """The Ray driver first: where it is missing, much follows from it."""
    yield from _ray(evidence)
    for node in evidence.nodes:
        for relay in node.relays:
            yield from _relay(node, relay)
            yield from _held(node, relay)
            yield from _plain(node, relay)
        yield from _lost(node)
        yield from _unserved(node, evidence)
    yield from _mixed(evidence)


def _ray(evidence: BoxEvidence) -> Iterator[DoctorFinding]:
    driver = evidence.process("ray")
    if driver is None or driver.alive or evidence.supervisor_phase not in ("running", "draining"):
        return
    why = driver.reason or driver.last_exit or "the Ray driver is not running"
    yield critical(
        "ray-unreachable",
        "ray",
        f"the cards of the Ray cluster are not to be had: {why}",
        evidence=tuple(str(quote) for quote in (driver.ended, driver.last_words) if quote is not None),
        todo="swarm logs ray -n 30; `ray status` must list the cluster here; the driver is started again by itself",
    )


def _relay(node: NodeEvidence, relay: RelayEvidence) -> Iterator[DoctorFinding]:
    """Why its relay does not serve us."""
    if not relay.trouble or relay.not_asked:
        return
    code, todo = _way_out(node.name, relay, by_ray=node.record is not None)
    proof = f"GET {relay.url}/node: {relay.trouble}"
    what = f"the cards of {node.name} are not to be had: {relay.said}"
    yield critical(code, node.name, what, evidence=(proof,), concerns=relay.workers, todo=todo)


def _way_out(name: str, relay: RelayEvidence, *, by_ray: bool) -> tuple[str, str]:
    """Code and next step."""
    match relay.trouble:
        case "wrong_token":
            step = f"give token_env the token that `swarm serve --relay` on {name} keeps in its file, then `swarm up`"
            return "node-token", "swarm restart ray" if by_ray else step
        case "no_token":
            return "node-token", "swarm logs ray -n 30" if by_ray else "set it, then `swarm up`"
        case "wrong_wire" | "wire_version":
            return "node-wire", f"install the same swarm on {name} as here, then start its relay again"
        case "no_relay":
            return "node-no-relay", f"correct url in [[workers]]: `swarm serve --relay` prints it on {name}"
        case _:
            step = f"on {name}: does `swarm serve --relay` run? Else address or firewall; from here: curl {relay.url}/node"
            return "node-unreachable", f"swarm logs ray -n 30; does `ray status` list {name}?" if by_ray else step


def _held(node: NodeEvidence, relay: RelayEvidence) -> Iterator[DoctorFinding]:
    for card in relay.cards:
        if card.refused:
            yield critical(
                "node-held",
                f"{node.name}/{card.card}",
                f"{card.card} of {node.name} is not given to {card.worker}: {card.refused}",
                evidence=(f"GET {relay.url}/cards/{card.card}/state",),
                concerns=card.worker,
                todo=f"take {card.worker} out of one of the two configurations; a card serves one swarm at a time",
            )


def _plain(node: NodeEvidence, relay: RelayEvidence) -> Iterator[DoctorFinding]:
    if relay.public_address:
        yield warning(
            "node-plain-http",
            node.name,
            f"prompts, answers and the token go unencrypted to {node.name}, over a public network",
            evidence=(f"{relay.url}: {relay.public_address}, which is no private address",),
            concerns=relay.workers,
            todo="use its address in a VPN, or an ssh tunnel",
        )


def _lost(node: NodeEvidence) -> Iterator[DoctorFinding]:
    record, lost_s = node.record, node.phase_s
    if record is None or record.phase is not NodePhase.LOST or (lost_s is not None and lost_s < LOST_S):
        return
    for_s = "" if lost_s is None else f" for {lost_s / 60:.0f} min"
    yield warning(
        "node-lost",
        node.name,
        f"node {node.name} ({record.address}) has been lost{for_s}: {record.reason or 'it is not seen any more'}",
        evidence=(f"nodes/{node.name}.json: {record.phase} since {record.since}, {len(record.cards)} cards",),
        concerns=", ".join(card.worker for card in record.cards),
        todo=f"on {node.name}: `ray start --address=HEAD:6379`; its tasks went elsewhere, and it is used again by itself",
    )


def _unserved(node: NodeEvidence, evidence: BoxEvidence) -> Iterator[DoctorFinding]:
    """Cards that nobody works on."""
    if node.record is None or node.record.phase is not NodePhase.UP or evidence.supervisor_phase != "running":
        return
    for card in node.record.cards:
        worker = evidence.process(card.worker)
        if worker is not None and (worker.alive or card.url):  # why a worker is down is said by itself
            continue
        why = card.reason or ("nobody says why" if not card.url else f"its relay serves it, {card.worker} has not begun")
        yield warning(
            "card-unserved",
            f"{node.name}/{card.card}",
            f"{card.card} of {node.name} has no worker: {why}",
            evidence=(f"nodes/{node.name}.json: {card.url or 'no url'}, {card.restarts} restarts",),
            concerns=card.worker,
            todo=f"swarm logs {'supervisor' if card.url else 'ray'} -n 30",
        )


def _mixed(evidence: BoxEvidence) -> Iterator[DoctorFinding]:
    """Machines that have different versions of swarm, or of an engine."""
    if not evidence.nodes:
        return
    yield from _mixture("swarm", {THIS_NODE: frozenset({evidence.version}), **{n.name: n.versions for n in evidence.nodes}})
    here = {engine.name: frozenset({engine.version} - {""}) for engine in evidence.engines if engine.workers}
    for name in sorted({name for node in evidence.nodes for name in node.engines}):
        found = {THIS_NODE: here.get(name, frozenset[str]()), **{node.name: node.engine(name) for node in evidence.nodes}}
        yield from _mixture(name, found)


def _mixture(what: str, by_node: Mapping[str, frozenset[str]]) -> Iterator[DoctorFinding]:
    numbers = {version_number(version) for versions in by_node.values() for version in versions}
    if len(numbers) < 2:
        return
    yield warning(
        f"{'swarm' if what == 'swarm' else 'engine'}-versions",
        what,
        f"the machines have different versions of {what}: {', '.join(sorted(numbers))}",
        evidence=tuple(f"{node}: {', '.join(sorted(found))}" for node, found in by_node.items() if found),
        todo=f"install the same {what} on all"
        + ("" if what == "swarm" else "; until then answers and speeds may differ from card to card"),
    )


def version_number(text: str) -> str:
    """``0.12.3`` of ``ollama version is 0.12.3``; a text without a number stands for itself."""
    found = _VERSION.search(text)
    return found[0] if found is not None else text
