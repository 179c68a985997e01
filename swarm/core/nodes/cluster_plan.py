"""The Ray driver's decisions: which actors to start and to end, and what the records of nodes say. Pure.

* One actor for each card a living node offers, and never two for one card.
* What ended is started again after the waits of ``core/policy/restart_backoff``, counted for each card of a node by name.
* A drained node's actors are ended once none of its workers runs; a lost node's at once. Ray restarts nothing by itself.
* A card has a ``url`` only while its relay serves. What an earlier driver wrote stands until its actor can answer.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import assert_never

import msgspec

from swarm.core.nodes.card_report import CardPhase
from swarm.core.nodes.cluster_view import (
    HUNG_S,
    SLOW_START_S,
    ActorPhase,
    ClusterPlan,
    ClusterView,
    EndActor,
    PlaceActor,
    SeenActor,
    SeenNode,
    SlotKey,
    SlotMemory,
)
from swarm.core.nodes.node_cards import SlotState, node_cards
from swarm.core.nodes.node_names import node_names, worker_name
from swarm.core.nodes.node_record import RAY, NodePhase, NodeRecord
from swarm.core.policy.restart_backoff import Life, after_end

NOT_SEEN = "Ray does not see this node"
_BEGINS = "about to start"
_STARTS = "Ray starts its actor"
_IS_ASKED = "its actor is being asked"
_RELAY_STARTS = "its relay is starting"
ON_ITS_WAY = frozenset({_BEGINS, _STARTS, _IS_ASKED, _RELAY_STARTS})
"""Reasons that pass by themselves within seconds."""


def plan_cluster(view: ClusterView) -> ClusterPlan:
    """What to do now; the same view gives the same plan."""
    names = node_names(view.nodes, view.records, view.taken)
    before = {record.name: record for record in view.records}
    lives = {node.life for node in view.nodes}
    end = [EndActor(life=a.life, slot=a.slot, reason=NOT_SEEN) for a in view.actors if _is_stray(a, lives)]
    place: list[PlaceActor] = []
    records: list[NodeRecord] = []
    memory = dict(view.memory)
    for node in view.nodes:
        name = names[node.life]
        if not node.cards and name not in before:
            continue
        plan = _NodePlan(view, node, name, before.get(name))
        end += plan.end
        place += plan.place
        memory.update(plan.memory)
        records.append(plan.record())
    lost = [record for name, record in before.items() if name not in names.values()]
    records += lost_nodes(lost, NOT_SEEN, view.now_iso)
    return ClusterPlan(place=tuple(place), end=tuple(end), records=tuple(records), memory=memory)


class _NodePlan:
    """The plan of one node."""

    def __init__(self, view: ClusterView, node: SeenNode, name: str, before: NodeRecord | None) -> None:
        self._view, self._node, self._name, self._before = view, node, name, before
        self.place: list[PlaceActor] = []
        self.end: list[EndActor] = []
        self.memory: dict[SlotKey, SlotMemory] = {}
        self._drain = name in view.drains
        ours = [actor for actor in view.actors if actor.life == node.life]
        self._actors = {actor.slot: actor for actor in ours if actor.slot < node.cards}
        for actor in ours:
            if actor.slot >= node.cards and actor.phase is not ActorPhase.ENDING:
                self._end(actor, "the node has fewer cards now")
        self._left = self._drain and not view.living & {worker_name(name, card) for card in self._card_names()}
        held: set[str] = set()
        for slot in range(node.cards):
            self._slot(slot, held)

    def record(self) -> NodeRecord:
        """How the node is."""
        node, before = self._node, self._before
        phase, reason = self._phase()
        same = before is not None and before.phase is phase
        reports = [a.report for a in self._actors.values() if a.report is not None]
        states = [report.state for report in reports if report.state is not None]
        return NodeRecord(
            name=self._name,
            source=RAY,
            address=node.address,
            phase=phase,
            reason=reason,
            since=before.since if before is not None and same else self._view.now_iso,
            life=node.life,
            version=next((r.version for r in reports), before.version if before is not None else ""),
            engine_versions=states[0].engine_versions if states else before.engine_versions if before is not None else {},
            cards=node_cards(self._name, [self._state(slot) for slot in range(node.cards)], self._kept()),
        )

    def _slot(self, slot: int, held: set[str]) -> None:
        actor = self._actors.get(slot)
        if actor is None:
            self._start(slot)
            return
        card = actor.report.card if actor.report is not None else ""
        if actor.phase is ActorPhase.ENDING:
            return
        if self._left:
            self._end(actor, "the node is drained")
        elif actor.phase is ActorPhase.ENDED:
            self._failed(actor, actor.reason)
        elif actor.phase is ActorPhase.SILENT and actor.for_s >= HUNG_S:
            self._failed(actor, f"it gave no answer for {HUNG_S:.0f} s")
        elif card and card in held:
            self._failed(actor, f"another actor has {card} already")
        elif card:
            held.add(card)

    def _start(self, slot: int) -> None:
        key = SlotKey(self._name, slot)
        memory = self._view.memory.get(key)
        if memory is not None and memory.record.due_s > self._view.now_s:
            return
        if memory is not None and memory.pending:
            self.memory[key] = msgspec.structs.replace(memory, pending=False)
        if not self._drain:
            self.place.append(PlaceActor(node=self._node, name=self._name, slot=slot))

    def _failed(self, actor: SeenActor, reason: str) -> None:
        """End it, and remember how it ended."""
        self._end(actor, reason)
        key = SlotKey(self._name, actor.slot)
        broke = actor.report is not None and actor.report.phase is CardPhase.ENDED
        life = Life(ready_s=actor.served_s, worked=actor.served_s is not None, broke=broke)
        record = self._view.memory.get(key, SlotMemory()).record
        booked = after_end(record, life, now_s=self._view.now_s, policy=self._view.policy)
        self.memory[key] = SlotMemory(record=booked, reason=reason, pending=True)

    def _end(self, actor: SeenActor, reason: str) -> None:
        self.end.append(EndActor(life=actor.life, slot=actor.slot, reason=reason))

    def _card_names(self) -> set[str]:
        known = {a.report.card for a in self._actors.values() if a.report is not None}
        return known | {card.card for card in (self._before.cards if self._before is not None else ())}

    def _kept(self) -> NodeRecord | None:
        """What stands of the record before; its urls only if they are of this life of the node."""
        before = self._before
        if before is None or before.life == self._node.life:
            return before
        cards = tuple(msgspec.structs.replace(card, url="") for card in before.cards)
        return msgspec.structs.replace(before, cards=cards)

    def _phase(self) -> tuple[NodePhase, str]:
        if self._drain:
            if self._actors and not self._left:
                return NodePhase.DRAINING, "its workers finish what they run"
            if self._actors:
                return NodePhase.DRAINING, "its cards are given back"
            return NodePhase.DRAINED, ""
        phases = {actor.phase for actor in self._actors.values()}
        if phases == {ActorPhase.SILENT}:
            return NodePhase.LOST, "it does not answer"
        return NodePhase.UP, "" if self._node.cards else "it has no card any more"

    def _state(self, slot: int) -> SlotState:
        memory = self.memory.get(SlotKey(self._name, slot)) or self._view.memory.get(SlotKey(self._name, slot))
        ended = {(one.life, one.slot): one.reason for one in self.end}
        actor = self._actors.get(slot)
        state = SlotState(slot=slot, restarts=memory.record.restarts if memory is not None else 0)
        if actor is None:
            return msgspec.structs.replace(state, reason="the node is drained" if self._drain else _last(memory) or _BEGINS)
        ends = (actor.life, slot) in ended
        serves = actor.report is not None and actor.report.phase is CardPhase.SERVING
        return msgspec.structs.replace(
            state,
            report=actor.report,
            serving=serves and actor.phase is ActorPhase.ANSWERING and not ends,
            kept=actor.phase is ActorPhase.FOUND and not ends,
            reason=ended[actor.life, slot] if ends else _since_last(_why(actor), memory),
        )


def _last(memory: SlotMemory | None) -> str:
    """How the actor before ended, as long as none has served since; empty for a first one."""
    return memory.reason if memory is not None and (memory.pending or memory.record.failures) else ""


def _since_last(why: str, memory: SlotMemory | None) -> str:
    return _last(memory) or why if why in ON_ITS_WAY else why


def _is_stray(actor: SeenActor, lives: set[str]) -> bool:
    return actor.life not in lives and actor.phase is not ActorPhase.ENDING


def _why(actor: SeenActor) -> str:
    """Why its card is not served."""
    match actor.phase:
        case ActorPhase.WAITING:
            full = "Ray has not started its actor: other jobs hold the cards of this node, or it is busy (`ray status`)"
            return full if actor.for_s >= SLOW_START_S else _STARTS
        case ActorPhase.FOUND:
            return _IS_ASKED
        case ActorPhase.SILENT:
            return actor.reason or "its actor does not answer"
        case ActorPhase.ENDING | ActorPhase.ENDED:
            return actor.reason
        case ActorPhase.ANSWERING:
            return (actor.report.reason if actor.report is not None else "") or _RELAY_STARTS
        case _:
            assert_never(actor.phase)


def lost_nodes(records: Iterable[NodeRecord], reason: str, now_iso: str) -> tuple[NodeRecord, ...]:
    """Their records once nobody sees these nodes: no card of them is to be had."""
    return tuple(_lost(record, reason, now_iso) for record in records)


def _lost(record: NodeRecord, reason: str, now_iso: str) -> NodeRecord:
    if record.phase is NodePhase.LOST and record.reason == reason:
        return record
    cards = tuple(msgspec.structs.replace(card, url="", reason=reason) for card in record.cards)
    since = record.since if record.phase is NodePhase.LOST else now_iso
    return msgspec.structs.replace(record, phase=NodePhase.LOST, reason=reason, since=since, cards=cards)
