"""The judges of long runs: each planted wrong is found, and what is right passes."""

import itertools

import pytest

from swarm.clock import iso_of
from tests.endurance.checks import MOST_NAMED, mapped_and_joined, one_record_each, sessions_in_order

SESSIONS, STEPS = 3, 4
QUESTIONS = ["red?", "green?", "blue?"]


def record(task_id, start_s=0.0, end_s=1.0, **more):
    attempt = {"attempt": 1, "worker": "w", "started_at": iso_of(start_s), "ended_at": iso_of(end_s), "outcome": "completed"}
    return {"task_id": task_id, "status": "completed", "completed_at": iso_of(end_s), "attempts": [attempt], **more}


def sessions():
    """Sessions side by side, each in order without a gap."""
    return [
        record(f"t{session}{step}", 10.0 + step, 11.0 + step, session=f"s{session}", metadata={"step": step})
        for step, session in itertools.product(range(STEPS), range(SESSIONS))
    ]


def by_step(document):
    return document["session"], document["metadata"]["step"]


def test_one_record_each_passes_what_is_whole():
    documents = sessions()
    assert one_record_each([d["task_id"] for d in documents], [*documents, {"task_id": "load-1", "status": "failed"}]) == []


def test_a_lost_a_doubled_and_a_failed_task_are_named():
    documents = sessions()
    wanted = [d["task_id"] for d in documents]
    assert one_record_each(wanted, documents[1:]) == ["lost: t00 has no record"]
    assert one_record_each(wanted, [*documents, documents[0]]) == ["recorded twice: t00 has 2 records"]
    failed = {**documents[0], "status": "failed", "error": {"message": "no such model"}}
    (line,) = one_record_each(wanted, [failed, *documents[1:]])
    assert "t00 is failed" in line
    assert "no such model" in line


def test_sessions_side_by_side_pass_when_each_is_in_order():
    assert sessions_in_order(sessions(), by_step) == []


def test_a_task_that_begins_a_millisecond_early_is_found():
    documents = sessions()
    documents[4] = record("t11", 10.999, 12.0, session="s1", metadata={"step": 1})
    assert sessions_in_order(documents, by_step) == ["session s1: t11 began 1 ms before t10 had ended"]


def test_an_earlier_attempt_that_began_too_early_is_found_too():
    documents = sessions()
    crashed = {"attempt": 1, "worker": "w", "started_at": iso_of(10.5), "ended_at": iso_of(10.9), "outcome": "crashed"}
    documents[4]["attempts"].insert(0, crashed)
    assert len(sessions_in_order(documents, by_step)) == 1


def test_two_that_changed_places_are_found_though_they_never_overlap():
    documents = sessions()
    for step, other in ((1, 2), (2, 1)):
        start_s = 10.0 + other
        documents[step * SESSIONS] = record(f"t0{step}", start_s, start_s + 1, session="s0", metadata={"step": step})
    assert sessions_in_order(documents, by_step) == ["session s0: t01 ran after t02, which was submitted later"]


def test_order_holds_within_each_submitter_where_several_submit_at_once():
    documents = [
        record(task_id, start_s, start_s + 1, session="s", metadata={"submitter": who, "step": step})
        for start_s, (task_id, who, step) in enumerate([("a0", "a", 0), ("b0", "b", 5), ("a1", "a", 1), ("b1", "b", 4)])
    ]

    def by_submitter(document):
        return document["metadata"]["submitter"], document["metadata"]["step"]

    assert sessions_in_order(documents[:3], by_submitter) == []
    assert sessions_in_order(documents, by_submitter) == ["session s: b1 ran after b0, which was submitted later"]


def test_a_record_without_times_is_no_proof():
    documents = sessions()
    del documents[0]["attempts"][0]["started_at"]
    assert sessions_in_order(documents, by_step) == ["session s0: t00 does not say when it began and ended"]


def test_very_many_wrongs_are_told_in_few_lines():
    wanted = [f"t{n}" for n in range(100)]
    lines = one_record_each(wanted, [])
    assert len(lines) == MOST_NAMED + 1
    assert lines[-1] == f"… and {100 - MOST_NAMED} more like the last"


def chat(task_id, asked, answered):
    message = {"role": "assistant", "content": answered}
    return record(task_id, request={"messages": [{"role": "user", "content": asked}]}, result={"message": message})


@pytest.fixture
def mapped():
    """A map task over three questions, its children and what the joining task was given."""
    answers = [f"answer to {question}" for question in QUESTIONS]
    children = {f"m-{n}": chat(f"m-{n}", q, a) for n, (q, a) in enumerate(zip(QUESTIONS, answers, strict=True))}
    parent = record("m", result={"children": list(children), "list": answers})
    return parent, children, list(answers)


def test_a_map_that_went_well_passes(mapped):
    parent, children, joined = mapped
    assert mapped_and_joined(parent, children, QUESTIONS, joined) == []


def test_each_wrong_of_a_map_is_found(mapped):
    parent, children, joined = mapped

    def found(parent=parent, children=children, joined=joined):
        return "\n".join(mapped_and_joined(parent, children, QUESTIONS, joined))

    assert "does not list its answers in order: they differ first at 1" in found(
        children={k: v for k, v in children.items() if k != "m-1"}
    )
    assert "m-3 stands for no element" in found(children={**children, "m-3": chat("m-3", "x", "y")})
    swapped = {**children, "m-0": chat("m-0", QUESTIONS[1], joined[0])}
    assert found(children=swapped) == "m-0 was asked another question"
    assert "m-2 has no answer" in found(children={**children, "m-2": {**children["m-2"], "result": None}})
    assert "the joining task did not see all answers in order: they differ first at 0" in found(joined=joined[::-1])
    assert "did not see all answers in order: 2 instead of 3" in found(joined=joined[:2])
    assert "did not see all answers in order: there is none" in found(joined=None)
    late = {**parent, "result": {**parent["result"], "children": ["m-0", "m-2", "m-1"]}}
    assert "m names 3 children, not the 3 in order" in found(parent=late)
