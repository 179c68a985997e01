"""Whom to blame: the request, the server, or nobody as yet. Tables, and worlds in which requests kill their neighbours."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.core.health.blame import MOMENT_S, MOST_HITS, Broken, Probed, Witness, verdict
from tests.helpers.blamesim import Job, World

replace = msgspec.structs.replace
CRASH = Broken(task_id="t", kind="runner_died", began_s=10, heard_s=-1, ended_s=20, pieces=0, hits=0, alone=False)
HANG = replace(CRASH, kind="first_token_timeout")
MID = replace(CRASH, kind="token_gap_timeout", heard_s=16, pieces=3)
BESIDE = replace(CRASH, task_id="o", began_s=5, ended_s=20.05, pieces=9)
LATER_S = 30.0


def blame(one, *, others=(), witnesses=(), probed=None, now_s=LATER_S):
    found = verdict(one, others, witnesses, probed, now_s)
    return None if found is None else (found.blame, found.alone)


@pytest.mark.parametrize(
    ("one", "how", "expected"),
    [
        (CRASH, {}, None),
        (CRASH, {"witnesses": [Witness(20.1, 20.2)], "now_s": 20.2}, None),  # others may yet turn out to have failed with it
        (CRASH, {"witnesses": [Witness(20.1, 20.4)]}, ("request", True)),
        (replace(CRASH, kind="garbage"), {"witnesses": [Witness(20.1, 20.4)]}, ("request", False)),
        (CRASH, {"witnesses": [Witness(11, 20.2)]}, None),  # what ended at that moment tells nothing of what came after
        (CRASH, {"witnesses": [Witness(11, 21)]}, ("request", False)),
        (CRASH, {"witnesses": [Witness(11, 19)]}, None),
        (CRASH, {"probed": Probed(21, 22)}, ("request", True)),
        (CRASH, {"probed": Probed(19, 22)}, None),
        (CRASH, {"probed": Probed(21, 22, "refused")}, ("server", True)),
        (CRASH, {"probed": Probed(12, 14, "refused")}, ("server", True)),
        (CRASH, {"probed": Probed(2, 9, "refused")}, None),
        (CRASH, {"probed": Probed(21, 22), "others": [BESIDE]}, ("unclear", True)),
        (BESIDE, {"probed": Probed(21, 22), "others": [CRASH]}, ("unclear", False)),
        (replace(BESIDE, hits=1), {"probed": Probed(21, 22), "others": [replace(CRASH, pieces=1)]}, ("unclear", True)),
        (replace(BESIDE, hits=2), {"probed": Probed(21, 22), "others": [replace(CRASH, hits=4)]}, ("unclear", True)),
        (CRASH, {"probed": Probed(21, 22), "others": [replace(BESIDE, hits=1)]}, ("unclear", True)),
        (CRASH, {"probed": Probed(21, 22), "others": [replace(BESIDE, hits=1, pieces=0)]}, ("unclear", False)),
        (CRASH, {"probed": Probed(21, 22), "others": [replace(BESIDE, ended_s=10)]}, ("request", True)),
        (CRASH, {"probed": Probed(21, 22), "others": [replace(BESIDE, ended_s=25)]}, ("request", True)),
        (CRASH, {"witnesses": [Witness(20.1, 21)], "others": [BESIDE]}, ("unclear", True)),
        (CRASH, {"witnesses": [Witness(11, 21)], "others": [BESIDE]}, ("request", False)),
        (CRASH, {"witnesses": [Witness(19.998, 21)], "others": [BESIDE]}, ("unclear", True)),  # on the next runner already
        (replace(CRASH, beside=False), {"witnesses": [Witness(20.01, 20.02)], "now_s": 20.03}, ("request", True)),
        (CRASH, {"witnesses": [Witness(20.1, 21), Witness(11, 19, under_way=True)], "others": [BESIDE]}, None),
        (BESIDE, {"probed": Probed(21, 22, "x"), "others": [CRASH]}, ("server", False)),
        (replace(CRASH, alone=True), {"probed": Probed(21, 22, "refused")}, ("request", True)),
        (replace(CRASH, alone=True), {"probed": Probed(21, 22)}, ("request", True)),
        (HANG, {"witnesses": [Witness(5, 16)]}, ("request", False)),
        (HANG, {"witnesses": [Witness(5, 14)]}, None),
        (MID, {"witnesses": [Witness(5, 17)]}, None),
        (MID, {"witnesses": [Witness(5, 19)]}, ("request", False)),
        (HANG, {"witnesses": [Witness(5, 16)], "others": [replace(MID, task_id="o")]}, ("request", False)),
        (HANG, {"probed": Probed(21, 22), "others": [replace(MID, task_id="o", ended_s=28)]}, ("unclear", True)),
        (HANG, {"probed": Probed(21, 22, "x"), "others": [replace(MID, task_id="o", ended_s=28)]}, ("server", True)),
    ],
)
def test_verdicts(one, how, expected):
    assert blame(one, **how) == expected


def test_of_those_that_failed_together_one_is_the_likeliest():
    together = [replace(CRASH, task_id=f"t{n}", pieces=n % 2, ended_s=20 + n * MOMENT_S / 20) for n in range(6)]
    found = [blame(one, others=[o for o in together if o is not one], probed=Probed(21, 22)) for one in together]
    assert sorted(alone for _, alone in found) == [False] * 5 + [True]


jobs = st.lists(
    st.tuples(st.booleans(), st.sampled_from([0.1, 0.3, 1.0, 2.5]), st.booleans()), min_size=1, max_size=25
).filter(lambda made: sum(poison for poison, _, _ in made) <= 10)


@settings(max_examples=150, deadline=None)
@given(jobs, st.integers(1, 3), st.integers(1, 5), st.integers(0, 1 << 16))
def test_no_innocent_is_ever_given_up_and_every_poison_is(made, cards, slots, seed):
    """Whatever ran beside whatever; and an end is reached in bounded time."""
    work = [Job(f"t{n}", poison, takes_s, talks) for n, (poison, takes_s, talks) in enumerate(made)]
    World(work, cards=cards, slots=slots, seed=seed).run(limit_s=2000)
    assert {job.task_id: job.end for job in work} == {job.task_id: "poison" if job.poison else "completed" for job in work}
    for job in work:
        if job.poison:
            broke = [past.worker for past in job.attempts if past.fault == "poison"]
            assert len(set(broke)) == 2 or len(broke) >= 3
        else:
            assert all(past.fault != "poison" for past in job.attempts), "not even once"
        assert sum(past.fault == "suspect" for past in job.attempts) <= MOST_HITS, "by then it runs alone"
