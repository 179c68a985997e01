"""The plan of a storm over nodes keeps its own rules, whatever the seed."""

import itertools
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from tests.helpers.node_plan import DISABLING, HERE, LONG, OF_RAY, OF_RELAYS, NodeEvent, NodePlan, plan_events

PLANS = st.builds(
    NodePlan,
    events=st.integers(1, 120),
    tasks=st.just(100),
    seed=st.integers(0, 10**6),
    nodes=st.integers(2, 6),
    kinds=st.sampled_from([OF_RELAYS, OF_RAY]),
    every_s=st.sampled_from([0.5, 4.0]),
    head_s=st.sampled_from([0.0, 60.0]),
)


def troubles(plan: NodePlan, events: Sequence[NodeEvent]) -> list[tuple[int, float, float]]:
    return [(e.node, e.at_s, e.at_s + e.lasts_s + plan.rest_s) for e in events if e.node is not None and e.kind != "add"]


@given(PLANS)
def test_one_trouble_at_a_time_for_each_node_and_none_before_it_is_there(plan):
    events = plan_events(plan)
    assert len(events) == plan.events + 1 + (plan.head_s > 0)
    assert [e.at_s for e in events] == sorted(e.at_s for e in events)
    added = next(e for e in events if e.kind == "add")
    assert added.node == plan.nodes - 1
    for node in range(plan.nodes):
        mine = [(begin, end) for n, begin, end in troubles(plan, events) if n == node]
        assert all(begin >= end for (_, end), (begin, _) in itertools.pairwise(mine))
        assert node != added.node or all(begin > added.at_s for begin, _ in mine)


@given(PLANS)
def test_there_is_always_an_elsewhere(plan):
    events = [e for e in plan_events(plan) if e.kind in DISABLING]
    for event in events:
        at_once = [e for e in events if e.at_s <= event.at_s < e.at_s + e.lasts_s]
        assert len(at_once) <= plan.nodes // 2


@given(PLANS)
def test_the_same_seed_gives_the_same_events(plan):
    assert plan_events(plan) == plan_events(plan)


def test_a_hundred_events_are_of_all_kinds():
    plan = NodePlan(events=100, tasks=2_000, seed=1, nodes=4, kinds=OF_RAY, head_s=60.0)
    kinds = {e.kind for e in plan_events(plan)}
    assert kinds == {*OF_RAY, *LONG, "add", "head"}
    assert set(HERE) < kinds
