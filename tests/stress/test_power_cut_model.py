"""Power cuts at every file call, by a model of the disk; and the rule behind them: nothing is said before it is flushed."""

import pytest

from tests.helpers.crashbooks import MORE, check_after_cut
from tests.helpers.crashpoints import recorded
from tests.helpers.crashscenes import SCENARIOS as SINGLE
from tests.helpers.crashturns import TURNS
from tests.helpers.crashworld import impatient, judge, recover, world
from tests.helpers.powercut import Disk, states, write_out

SCENARIOS = (*SINGLE, *MORE, *TURNS)


@pytest.fixture(autouse=True)
def no_waiting():
    with impatient():
        yield


def traced(one, scenario):
    """The calls of the operation, and after how many of them each fact was said."""
    said, say = [], one.say

    def note(what, *facts):
        said.append((len(calls), what, facts))

    with recorded(one.root) as calls:
        one.say = note
        scenario.act(one)
    one.say = say
    return calls, said


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda s: s.name)
def test_what_is_said_survives_a_cut_before_any_call(scenario):
    with world(scenario) as one:
        before = Disk(one.root).cut([], next(states([])))
        calls, said = traced(one, scenario)
        seen = set()
        for state in states(calls):
            write_out(one.root, before)
            tree = Disk(one.root).cut(calls, state)
            facts = [f for f in said if f[0] <= state.cut]
            key = (frozenset(tree.items()), len(facts))
            if key in seen:
                continue
            seen.add(key)
            write_out(one.root, tree)
            ledger = one.said()
            for _, what, told in facts:
                one.say(what, *told)
            try:
                recover(one)
                judge(one, check_after_cut)
            except Exception as exc:
                call = calls[state.cut - 1] if state.cut else None
                exc.add_note(f"cut after call {state.cut} of {len(calls)} ({call}): {state}; said: {facts}")
                raise
            one.forget_all_but(len(ledger))


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda s: s.name)
def test_nothing_is_said_before_it_is_flushed(scenario):
    with world(scenario) as one:
        disk = Disk(one.root)
        calls, said = traced(one, scenario)
        done = 0
        for position, what, facts in said:
            for call in calls[done:position]:
                disk.apply(call)
            done = position
            assert disk.unflushed() == [], f"{what} {facts} was said before these were durable"
