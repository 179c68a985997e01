"""Machines whose cards are used, this one first: where each is in its life, its cards, workers and versions.

What is known comes from the plan, the records of the node source, wishes to drain, and the workers; nobody is asked.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

import msgspec

from swarm import __version__
from swarm.core.health.liveness import Condition, condition, workers_of
from swarm.core.nodes.node_record import NodePhase, NodeRecord, NodesSeen
from swarm.core.nodes.relay_workers import THIS_NODE, relay_places
from swarm.core.placement.worker_plan import WorkerPlan
from swarm.queue.coordination import is_held
from swarm.queue.layout import Layout
from swarm.queue.stores.node_book import drained_nodes, read_nodes
from swarm.runtime.open import lives
from swarm.supervisor.state import NAME, RAY, load_plan
from swarm.views.blocks import Cell, Style, Table, columns

if TYPE_CHECKING:
    from swarm.config.settings import Settings
    from swarm.core.snapshot import SwarmSnapshot, WorkerView

Source = Literal["local", "config", "ray"]
Phase = Literal["up", "draining", "drained", "lost", "unknown"]


class NodeCardLine(msgspec.Struct, frozen=True, kw_only=True):
    """One card of a machine."""

    card: str
    worker: str | None
    state: str | None
    """Of its worker, as `swarm workers` has it; null: it has never begun."""
    name: str = ""
    vram_mib: int | None = None
    uuid: str = ""
    reason: str = ""
    """What keeps it from work."""


class NodeLine(msgspec.Struct, frozen=True, kw_only=True):
    """One machine."""

    name: str
    """``local`` is this one."""
    source: Source
    """``config``: `[[workers]]` with a url; ``ray``: the Ray driver found it."""
    phase: Phase
    """``unknown``: no worker of it runs, so that nobody asks it."""
    address: str
    cards: tuple[NodeCardLine, ...] = ()
    workers: tuple[str, ...] = ()
    """Those that live."""
    version: str = ""
    """Of swarm there; empty: not known."""
    engine_versions: dict[str, str] = {}
    since: str | None = None
    """When it came into this phase, where that is on record."""
    reason: str = ""


class NodeList(msgspec.Struct, frozen=True, kw_only=True):
    """`swarm nodes`."""

    at: str
    nodes: tuple[NodeLine, ...]


def node_list(snapshot: SwarmSnapshot, settings: Settings) -> NodeList:
    """All machines. Raises ``StorageFault``."""
    layout = Layout(settings.queue.root)
    seen = NodesSeen(read_nodes(layout), drained_nodes(layout))
    plans = planned_nodes(settings)
    driver = is_held(layout, RAY)
    return NodeList(at=snapshot.now_iso, nodes=node_lines(snapshot, settings, plans, seen, driver=driver))


def planned_nodes(settings: Settings) -> tuple[WorkerPlan, ...]:
    """Plans of workers whose cards are in other machines: those of the running swarm, else of the configuration."""
    plans = load_plan(Path(settings.queue.root) / "workers") if lives(settings, NAME) else None
    if plans is not None:
        return tuple(plan for plan in plans if plan.relay is not None)
    places = relay_places(settings.workers).items()
    return tuple(WorkerPlan(name=name, url=card.url, relay=place) for name, (card, place) in places)


def node_lines(
    snapshot: SwarmSnapshot, settings: Settings, plans: Sequence[WorkerPlan], seen: NodesSeen, *, driver: bool
) -> tuple[NodeLine, ...]:
    """This machine, then the others by name. ``driver``: the Ray driver runs."""
    views = {view.name: view for view in workers_of(snapshot)}
    states = {name: condition(view, snapshot, settings) for name, view in views.items()}
    records = {record.name: record for record in seen.records}
    by_node: dict[str, list[WorkerPlan]] = {}
    for plan in plans:
        by_node.setdefault(plan.node, []).append(plan)
    lines = [_this_machine(snapshot, views, states)]
    for name in sorted({*by_node, *records, *seen.drains}):
        drain, record = name in seen.drains, records.get(name)
        if record is not None:
            lines.append(_recorded(record, views, states, drain=drain, driver=driver))
        else:
            lines.append(_configured(name, by_node.get(name, ()), views, states, drain=drain))
    return tuple(lines)


def _this_machine(snapshot: SwarmSnapshot, views: Mapping[str, WorkerView], states: Mapping[str, Condition]) -> NodeLine:
    here = [view for view in views.values() if not view.node]
    owners = {uuid: view.name for view in here if view.row is not None for uuid in view.row.gpu_uuids}
    cards = []
    for card in snapshot.gpus:
        if not card.node:
            owner = owners.get(card.uuid) or owners.get(str(card.index))
            state = states[owner].state if owner else None
            cards.append(
                NodeCardLine(
                    card=f"gpu{card.index}",
                    worker=owner,
                    state=state,
                    name=card.name,
                    vram_mib=card.memory_total_mib,
                    uuid=card.uuid,
                    reason=card.fault or "",
                )
            )
    living = [view for view in here if view.alive]
    return NodeLine(
        name=THIS_NODE,
        source="local",
        phase="up",
        address=socket.gethostname(),
        cards=tuple(cards),
        workers=tuple(view.name for view in living),
        version=__version__,
        engine_versions=_engine_versions(living),
    )


def _recorded(
    record: NodeRecord, views: Mapping[str, WorkerView], states: Mapping[str, Condition], *, drain: bool, driver: bool
) -> NodeLine:
    living = [view for card in record.cards if (view := views.get(card.worker)) is not None and view.alive]
    phase = NodePhase.DRAINING if drain and record.phase is NodePhase.UP else record.phase
    without = "" if driver else "the Ray driver is not running: this is what it saw last"
    return NodeLine(
        name=record.name,
        source="ray",
        phase=phase.value,
        address=record.address,
        cards=tuple(
            NodeCardLine(
                card=card.card,
                worker=card.worker,
                state=states[card.worker].state if card.worker in states else None,
                name=card.name,
                vram_mib=card.vram_mib,
                uuid=card.uuid,
                reason=card.reason or _trouble(states.get(card.worker)),
            )
            for card in record.cards
        ),
        workers=tuple(view.name for view in living),
        version=record.version,
        engine_versions={**record.engine_versions, **_engine_versions(living)},
        since=record.since or None,
        reason="; ".join(filter(None, (record.reason, without))),
    )


def _configured(
    name: str, plans: Sequence[WorkerPlan], views: Mapping[str, WorkerView], states: Mapping[str, Condition], *, drain: bool
) -> NodeLine:
    living = [view for plan in plans if (view := views.get(plan.name)) is not None and view.alive]
    troubles = [_trouble(states[view.name]) for view in living]
    phase: Phase = "unknown"
    if drain:
        phase = "draining" if living else "drained"
    elif living:
        phase = "lost" if all(states[view.name].state in ("unready", "card_lost") for view in living) else "up"
    reason = next(filter(None, troubles), "") if phase == "lost" else ""
    if not plans:
        reason = "no worker is on it: it is drained if it comes"
    elif drain:
        reason = f"`swarm nodes resume {name}` uses it again"
    return NodeLine(
        name=name,
        source="config" if plans else "ray",
        phase=phase,
        address=", ".join(dict.fromkeys(urlsplit(plan.url or "").netloc for plan in plans)),
        cards=tuple(_configured_card(plan, views.get(plan.name), states.get(plan.name)) for plan in plans),
        workers=tuple(view.name for view in living),
        engine_versions=_engine_versions(living),
        reason=reason,
    )


def _configured_card(plan: WorkerPlan, view: WorkerView | None, state: Condition | None) -> NodeCardLine:
    beat = view.heartbeat if view is not None and view.alive else None
    card = next(iter(beat.cards), None) if beat is not None else None
    return NodeCardLine(
        card=plan.relay.card if plan.relay is not None else "",
        worker=plan.name,
        state=state.state if state is not None else None,
        name=card.name if card is not None else "",
        vram_mib=card.memory_total_mib if card is not None else None,
        uuid=card.uuid if card is not None else "",
        reason=_trouble(state),
    )


def _trouble(state: Condition | None) -> str:
    return state.text if state is not None and state.state in ("unready", "card_lost", "hung", "stale", "dead") else ""


def _engine_versions(views: Iterable[WorkerView]) -> dict[str, str]:
    """As the servers of these workers say; several of one engine with slashes."""
    found: dict[str, set[str]] = {}
    for view in views:
        if (
            view.row is not None
            and view.row.url is not None
            and view.heartbeat is not None
            and view.heartbeat.server_version
        ):
            found.setdefault(view.row.engines[0], set()).add(view.heartbeat.server_version)
    return {engine: "/".join(sorted(versions)) for engine, versions in sorted(found.items())}


_STYLES: dict[str, Style] = {"up": "green", "draining": "yellow", "drained": "dim", "lost": "bold red", "unknown": "yellow"}


def nodes_table(lines: Sequence[NodeLine]) -> Table:
    """Machines; cards with a living worker of all."""
    heads = columns("node", "source", "phase", "address~?", "cards>", "workers>", "swarm?", "engines~?", "since?", "reason~")
    return Table(columns=heads, rows=tuple(_cells(line) for line in lines))


def _cells(line: NodeLine) -> tuple[Cell | str, ...]:
    engines = ", ".join(f"{name} {version}".rstrip() for name, version in line.engine_versions.items())
    reasons = [line.reason, *(f"{card.card}: {card.reason}" for card in line.cards if card.reason)]
    return (
        line.name,
        line.source,
        Cell(line.phase, _STYLES[line.phase]),
        line.address or "-",
        str(len(line.cards)),
        str(len(line.workers)),
        line.version or "-",
        engines or "-",
        (line.since or "-").partition(".")[0].replace("T", " "),
        next(filter(None, reasons), ""),
    )
