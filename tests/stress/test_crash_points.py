"""Death and disk trouble at every single file call of every operation, and a second death inside the recovery."""

import os

import pytest

from swarm.errors import StorageFault
from tests.helpers.crashbooks import MORE, check
from tests.helpers.crashpoints import FAULTS, WRITES, dies, failing, killer, recorded, short_writer, watched
from tests.helpers.crashscenes import SCENARIOS as SINGLE
from tests.helpers.crashturns import TURNS
from tests.helpers.crashworld import impatient, judge, recover, same_again, world

SCENARIOS = (*SINGLE, *MORE, *TURNS)

LARGE = bool(os.environ.get("SWARM_TORTURE"))
"""``scripts/torture`` sets it: every pair instead of some."""


@pytest.fixture(autouse=True)
def no_waiting():
    with impatient():
        yield


def calls_of(scenario):
    with world(scenario) as one, recorded(one.root) as calls:
        scenario.act(one)
    return calls


def killed(one, act, hook):
    """Whether ``act`` died of ``hook``."""

    def life():
        with watched(one.root, hook):
            act(one)

    return dies(life)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda s: s.name)
def test_a_kill_at_any_file_call_loses_and_doubles_nothing(scenario):
    points = [c for c in calls_of(scenario) if c.mutating]
    assert points, "nothing was seen: the wrappers miss this operation"
    for k, call in enumerate(points):
        for half in (False, True) if call.name in WRITES and len(call.data) > 1 else (False,):
            with world(scenario) as one:
                assert killed(one, scenario.act, killer(k, half=half)), f"it came through call {k}"
                try:
                    recover(one)
                    if scenario.again:
                        same_again(one, scenario.act)
                    judge(one, check)
                except Exception as exc:
                    exc.add_note(f"killed {'in' if half else 'before'} call {k} of {len(points)}: {call}")
                    raise


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda s: s.name)
@pytest.mark.parametrize("fault", FAULTS)
def test_trouble_at_any_file_call_is_told_and_passes(scenario, fault):
    points = [c for c in calls_of(scenario) if FAULTS[fault][1](c)]
    for k, call in enumerate(points):
        for lasting in (True, False) if LARGE else (True,):
            with world(scenario) as one:
                try:
                    try:
                        with watched(one.root, failing(fault, k, lasting=lasting)):
                            scenario.act(one)
                    except StorageFault as caught:
                        assert caught.hint, "no word on what to do"
                    same_again(one, scenario.act)
                    recover(one)
                    judge(one, check)
                except Exception as exc:
                    exc.add_note(f"{fault}{' from' if lasting else ' at'} call {k} of {len(points)} on: {call}")
                    raise


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda s: s.name)
def test_short_writes_are_completed(scenario):
    writes = [c for c in calls_of(scenario) if c.name in WRITES]
    for k in range(len(writes)):
        with world(scenario) as one:
            with watched(one.root, short_writer(k)):
                scenario.act(one)
            recover(one)
            judge(one, check)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda s: s.name)
def test_a_second_kill_inside_the_recovery_changes_nothing(scenario):
    points = sum(c.mutating for c in calls_of(scenario))
    for k in range(0, points, 1 if LARGE else 7):
        j = 0
        while True:
            with world(scenario) as one:
                assert killed(one, scenario.act, killer(k))
                again = killed(one, recover, killer(j))
                try:
                    recover(one)
                    judge(one, check)
                except Exception as exc:
                    exc.add_note(f"killed before call {k} of {points}, then before call {j} of the recovery")
                    raise
            if not again:
                break
            j += 1 if LARGE else 3
