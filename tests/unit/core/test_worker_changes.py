"""From records of nodes to workers that are kept: whatever comes, all changes end, and end in what is wanted."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from swarm.config.settings import Settings, WorkerSpec
from swarm.core.nodes.node_record import NodeCard, NodePhase, NodeRecord, NodesSeen
from swarm.core.nodes.worker_changes import (
    AddWorker,
    DrainWorker,
    KeptWorker,
    RemoveWorker,
    StopWorker,
    UpdatePlan,
    wanted_workers,
    worker_changes,
)
from swarm.core.placement.worker_plan import plan_workers

PLANNED = plan_workers(
    Settings(
        workers=(
            WorkerSpec(name="here"),
            WorkerSpec(name="far", url="http://box9:1/cards/gpu0", token="t"),
            WorkerSpec(name="far2", url="http://box9:1/cards/gpu1", token="t"),
        )
    ),
    (),
    simulate=None,
)
cards = st.builds(
    lambda number, port, vram: NodeCard(
        card=f"gpu{number}", worker=f"b{number}", url=f"http://h:{port}/cards/gpu{number}" if port else "", vram_mib=vram
    ),
    st.integers(0, 2),
    st.integers(0, 2),
    st.sampled_from((None, 1000)),
)
records = st.builds(
    lambda phase, cards: NodeRecord(name="b", source="ray", address="h", phase=phase, cards=tuple(cards)),
    st.sampled_from(NodePhase),
    st.lists(cards, max_size=4),
)
seen = st.builds(
    lambda records, drains: NodesSeen(tuple(records), frozenset(drains)),
    st.lists(records, max_size=1),
    st.sets(st.sampled_from(("b", "box9", "box8"))),
)


class Kept:
    """What a supervisor does with changes; processes end when the test says so."""

    def __init__(self) -> None:
        self.workers: dict[str, KeptWorker] = {}

    def carry_out(self, wanted) -> int:
        changes = worker_changes(self.workers, wanted.workers)
        for change in changes:
            match change:
                case AddWorker(plan):
                    assert plan.name not in self.workers or self.workers[plan.name].ended, "never two of a name"
                    self.workers[plan.name] = KeptWorker(plan)
                case UpdatePlan(plan):
                    assert self.workers[plan.name].plan.url == plan.url
                    self._change(plan.name, plan=plan)
                case DrainWorker(name) | StopWorker(name):
                    assert name != "here"
                    assert not self.workers[name].ended
                    self._change(name, leaving=True)
                case RemoveWorker(name):
                    assert self.workers.pop(name).ended
        return sum(not isinstance(change, StopWorker) for change in changes)

    def end(self, names) -> None:
        for name in [n for n, one in self.workers.items() if one.leaving and n in names]:
            self._change(name, ended=True)

    def _change(self, name: str, **fields) -> None:
        self.workers[name] = msgspec.structs.replace(self.workers[name], **fields)


@given(st.lists(st.tuples(seen, st.sets(st.sampled_from(("far", "far2", "b0", "b1", "b2")))), min_size=1, max_size=6))
def test_all_changes_end_in_what_is_wanted(story):
    kept = Kept()
    for look, ends in story:
        wanted = wanted_workers(PLANNED, look, ("ray",))
        kept.carry_out(wanted)
        kept.end(ends)
    for _ in range(5):
        kept.carry_out(wanted)
        kept.end(set(kept.workers))
    assert kept.carry_out(wanted) == 0, "nothing is left to be done"
    assert {name: one.plan for name, one in kept.workers.items()} == {n: wish.plan for n, wish in wanted.workers.items()}
    for name, wish in wanted.workers.items():
        assert (kept.workers[name].leaving, kept.workers[name].ended) == (bool(wish.drain), bool(wish.drain)), name


@given(seen)
def test_a_card_has_one_worker_and_a_worker_one_card(look):
    wanted = wanted_workers(PLANNED, look, ("ray",))
    urls = [wish.plan.url for wish in wanted.workers.values() if wish.plan.url is not None]
    assert len(urls) == len(set(urls))
    assert {"here", "far", "far2"} <= set(wanted.workers)
    assert bool(wanted.workers["far"].drain) == ("box9" in look.drains)
    assert not wanted.workers["here"].drain
    assert set(wanted_workers(PLANNED, look, ()).workers) == {"here", "far", "far2"}
