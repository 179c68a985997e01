"""The Ray driver's decisions, over any sequence of what a cluster may do."""

from __future__ import annotations

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.config.section import WorkerNameText
from swarm.core.nodes.card_report import CardPhase, CardReport
from swarm.core.nodes.cluster_plan import NOT_SEEN, lost_nodes, plan_cluster
from swarm.core.nodes.cluster_view import HUNG_S, ActorPhase, ClusterPlan, ClusterView, SeenActor, SeenNode
from swarm.core.nodes.node_names import node_names
from swarm.core.nodes.node_record import NodeCard, NodePhase, NodeRecord
from swarm.core.nodes.relay_wire import CardState, NodeState

A = SeenNode(life="a1", name="box", address="10.0.0.1", cards=2)
B = SeenNode(life="b1", name="box", address="10.0.0.2", cards=1)


def serving(node: SeenNode, slot: int, card: str = "") -> SeenActor:
    card = card or f"gpu{slot}"
    seen = CardState(card=card, uuid=f"{node.address}/{card}", index=int(card[3:]), name="GPU")
    state = NodeState(wire=1, node="box", life="r", version="1", cards=(seen,))
    url = f"http://{node.life}:1/cards/{card}"
    report = CardReport(phase=CardPhase.SERVING, version="1", card=card, url=url, state=state)
    return SeenActor(life=node.life, slot=slot, phase=ActorPhase.ANSWERING, served_s=60.0, report=report)


def bad(actor: SeenActor, phase: ActorPhase, reason: str = "", for_s: float = 0.0) -> SeenActor:
    return msgspec.structs.replace(actor, phase=phase, reason=reason, for_s=for_s)


def look(*actors: SeenActor, nodes=(A,), now_s=0.0, after: ClusterPlan | None = None, **more) -> ClusterPlan:
    plan = after or ClusterPlan()
    view = ClusterView(
        now_s=now_s, now_iso="2026-01-01T00:00:00.000+00:00", nodes=nodes, actors=actors,
        records=plan.records, memory=plan.memory, **more,
    )  # fmt: skip
    return plan_cluster(view)


def urls(plan: ClusterPlan, node: str = "box") -> dict[str, str]:
    return {c.worker: c.url for r in plan.records if r.name == node for c in r.cards}


def test_each_card_gets_an_actor_and_a_url_once_it_serves():
    first = look()
    assert [(p.name, p.slot) for p in first.place] == [("box", 0), ("box", 1)]
    assert urls(first) == {"box-gpu0": "", "box-gpu1": ""}
    then = look(serving(A, 0, "gpu1"), bad(serving(A, 1), ActorPhase.WAITING), after=first)
    assert not then.place
    assert urls(then) == {"box-gpu0": "", "box-gpu1": "http://a1:1/cards/gpu1"}  # which card it is, Ray has chosen


def test_a_next_driver_leaves_standing_what_was_written_until_an_actor_is_silent():
    served = look(serving(A, 0), serving(A, 1))
    found = [msgspec.structs.replace(bad(serving(A, slot), ActorPhase.FOUND), report=None) for slot in (0, 1)]
    again = plan_cluster(ClusterView(now_s=5, now_iso="x", nodes=(A,), actors=tuple(found), records=served.records))
    assert urls(again) == urls(served)
    assert not again.place and not again.end
    silent = look(*(bad(one, ActorPhase.SILENT, for_s=15) for one in found), after=again)
    assert set(urls(silent).values()) == {""}
    assert silent.records[0].phase is NodePhase.LOST
    assert not silent.end
    hung = look(*(bad(one, ActorPhase.SILENT, for_s=HUNG_S) for one in found), after=silent)
    assert len(hung.end) == 2


def test_what_breaks_at_its_start_waits_longer_each_time_and_says_why():
    plan, waits, now_s = look(nodes=(B,)), [], 0.0
    for _ in range(4):
        broken = bad(serving(B, 0), ActorPhase.ENDED, "no ollama there")
        broken = msgspec.structs.replace(broken, served_s=None)
        plan = look(broken, nodes=(B,), now_s=now_s, after=plan)
        assert len(plan.end) == 1
        assert plan.records[0].cards[0].reason == "no ollama there"
        began_s = now_s
        while not (plan := look(nodes=(B,), now_s=now_s, after=plan)).place:
            assert plan.records[0].cards[0].reason == "no ollama there"
            now_s += 1
        waits.append(now_s - began_s)
    assert waits == [0, 10, 20, 40]


def test_a_drained_node_keeps_its_actors_as_long_as_a_worker_runs_and_comes_back_when_asked():
    up = look(serving(A, 0), serving(A, 1))
    drain = {"drains": frozenset({"box"})}
    busy = look(serving(A, 0), serving(A, 1), after=up, living=frozenset({"box-gpu1"}), **drain)
    assert (busy.records[0].phase, busy.end) == (NodePhase.DRAINING, ())
    assert all(urls(busy).values())
    idle = look(serving(A, 0), serving(A, 1), after=busy, **drain)
    assert len(idle.end) == 2
    gone = look(after=idle, **drain)
    assert (gone.records[0].phase, gone.place, set(urls(gone).values())) == (NodePhase.DRAINED, (), {""})
    assert len(look(after=gone).place) == 2


def test_a_lost_node_takes_its_actors_along_and_has_its_name_again_when_it_comes_back():
    up = look(serving(A, 0), serving(B, 0), nodes=(A, B))
    assert {r.name: r.address for r in up.records} == {"box": "10.0.0.1", "box-2": "10.0.0.2"}
    lost = look(serving(A, 0), serving(B, 0), nodes=(B,), after=up)
    assert [(one.life, one.reason) for one in lost.end] == [("a1", NOT_SEEN)]
    assert [r.phase for r in lost.records if r.name == "box"] == [NodePhase.LOST]
    other = msgspec.structs.replace(A, life="a2")
    back = look(serving(B, 0), nodes=(B, other), after=lost)
    assert {p.name for p in back.place} == {"box"}
    assert {r.name: (r.phase, r.life) for r in back.records} == {
        "box": (NodePhase.UP, "a2"), "box-2": (NodePhase.UP, "b1")
    }  # fmt: skip
    assert lost_nodes(lost.records, "over", "x")[0].reason == "over"


NODES = st.lists(
    st.builds(
        SeenNode,
        life=st.sampled_from("abcdef"),
        name=st.sampled_from(["box", "box-2", "10.0.0.7", "a name with ünicode and no end to it at all", "", "--"]),
        address=st.sampled_from(["10.0.0.1", "10.0.0.2"]),
        cards=st.integers(0, 3),
    ),
    max_size=4,
    unique_by=lambda node: node.life,
)


@given(nodes=NODES, more=NODES, taken=st.sets(st.sampled_from(["box", "node"])))
def test_names_are_workers_names_differ_and_stay(nodes, more, taken):
    names = node_names(nodes, (), taken)
    assert len({*names.values(), *taken}) == len(names) + len(taken)
    for name in names.values():
        msgspec.convert(f"{name}-gpu127", WorkerNameText)
    records = [
        NodeRecord(name=names[n.life], source="ray", address=n.address, phase=NodePhase.UP, life=n.life) for n in nodes
    ]
    later = node_names([n for n in (*nodes, *more) if (n in nodes) or n.life not in names], records, taken)
    assert {life: later[life] for life in names} == names


class World:
    """A cluster that does whatever it is told, with a driver that does what is decided."""

    def __init__(self) -> None:
        self.nodes: dict[str, SeenNode] = {}
        self.actors: dict[tuple[str, int], SeenActor] = {}
        self.plan = ClusterPlan()
        self.drains: frozenset[str] = frozenset()
        self.now_s = 0.0

    def happen(self, what: str, which: int) -> None:
        life = "abc"[which % 3]
        node = self.nodes.get(life)
        if what == "join":
            name, address = ("box", "10.0.0.1") if which % 2 else ("other", "10.0.0.2")
            self.nodes[life] = SeenNode(life=life, name=name, address=address, cards=1 + which % 2)
        elif what == "leave":
            self.nodes.pop(life, None)
        elif what == "fewer" and node is not None:
            self.nodes[life] = msgspec.structs.replace(node, cards=which % 2)
        elif what == "drain":
            self.drains = frozenset() if self.drains else frozenset({"box"})
        elif what == "driver":
            self.plan = msgspec.structs.replace(self.plan, memory={})
        elif what in ("serve", "end", "silence") and self.actors:
            self._change(what, list(self.actors)[which % len(self.actors)])

    def _change(self, what: str, key: tuple[str, int]) -> None:
        if key[0] not in self.nodes:
            return
        served = serving(self.nodes[key[0]], key[1])
        changed = {"serve": served, "end": bad(served, ActorPhase.ENDED, "ended"), "silence": bad(served, ActorPhase.SILENT)}
        self.actors[key] = changed[what]

    def turn(self, living: frozenset[str]) -> None:
        self.now_s += 5.0
        plan = look(
            *self.actors.values(), nodes=tuple(self.nodes.values()), now_s=self.now_s, after=self.plan,
            drains=self.drains, living=living,
        )  # fmt: skip
        for one in plan.end:
            del self.actors[one.life, one.slot]
        for placed in plan.place:
            key = placed.node.life, placed.slot
            assert key not in self.actors, "a second actor for a card"
            assert placed.name not in self.drains
            self.actors[key] = SeenActor(life=key[0], slot=key[1], phase=ActorPhase.WAITING)
        self.plan = plan


EVENTS = st.lists(
    st.tuples(st.sampled_from(["join", "leave", "serve", "end", "silence", "fewer", "drain", "driver"]), st.integers(0, 5)),
    max_size=30,
)


@settings(max_examples=150)
@given(events=EVENTS)
def test_whatever_happens_all_cards_are_served_in_the_end_and_none_twice(events):
    world = World()
    for number, (what, which) in enumerate(events):
        world.happen(what, which)
        world.turn(frozenset({"box-gpu0"}) if number % 3 == 0 else frozenset())
        cards = [card for record in world.plan.records for card in record.cards]
        assert len({card.worker for card in cards}) == len(cards)
        live = [card.url for card in cards if card.url]
        assert len(set(live)) == len(live)
        assert all(placed.node.life in world.nodes for placed in world.plan.place)
        for card in cards:
            assert card.url or card.reason
    world.drains = frozenset()
    for _ in range(150):
        for key, actor in world.actors.items():
            if actor.phase is ActorPhase.SILENT:
                world.actors[key] = bad(actor, ActorPhase.SILENT, for_s=HUNG_S)
            elif actor.phase is not ActorPhase.ENDED and actor.life in world.nodes:
                world.actors[key] = serving(world.nodes[actor.life], actor.slot)
        world.turn(frozenset())
    assert set(world.actors) == {(n.life, slot) for n in world.nodes.values() for slot in range(n.cards)}
    up = {r.life: r for r in world.plan.records if r.phase is NodePhase.UP}
    assert all(card.url for n in world.nodes.values() for card in (up[n.life].cards if n.cards else ()))


def test_a_card_keeps_its_place_in_the_record_while_it_is_not_served():
    served = look(serving(A, 0, "gpu1"), serving(A, 1, "gpu0"))
    broken = look(bad(serving(A, 0, "gpu1"), ActorPhase.ENDED, "it broke"), serving(A, 1, "gpu0"), after=served)
    waits = look(serving(A, 1, "gpu0"), after=broken)
    cards = {card.card: card for card in waits.records[0].cards}
    assert (cards["gpu1"].reason, cards["gpu1"].uuid, cards["gpu1"].restarts) == ("about to start", "10.0.0.1/gpu1", 1)
    assert isinstance(cards["gpu0"], NodeCard) and cards["gpu0"].url
