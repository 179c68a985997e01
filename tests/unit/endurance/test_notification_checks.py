"""The judge of who was told what finds whatever is planted."""

import pytest

from tests.endurance.notification_checks import given_up, told_of_all, twice

OWED = {"t1", "t2", "b1"}
STATUS = {"t1": "completed", "t2": "failed"}


def message(subject, mark="m", **more):
    name = "batch_id" if subject.startswith("b") else "task_id"
    known = {"status": STATUS[subject]} if subject in STATUS else {}
    return {"message_id": f"{subject}-{mark}", name: subject, **known, **more}


GOOD = [message("t1"), message("t2"), message("b1")]


def test_each_end_told_at_least_once_is_good():
    assert told_of_all("hook", OWED, GOOD, STATUS) == []
    assert told_of_all("hook", OWED, [*GOOD, message("t1")], STATUS) == []
    assert twice([*GOOD, message("t1"), message("t1")]) == 2


@pytest.mark.parametrize(
    ("received", "finding"),
    [
        (GOOD[1:], "hook was never told of the end of t1"),
        (GOOD[:2], "hook was never told of the end of b1"),
        ([*GOOD, message("t9")], "told of t9, which it had not asked for"),
        ([*GOOD, message("t1", mark="other")], "cannot tell that what it heard of t1 is one end"),
        ([*GOOD, message("t1", status="failed")], "told that t1 is failed, but it is completed"),
    ],
)
def test_each_planted_violation_of_telling_is_found(received, finding):
    assert any(finding in line for line in told_of_all("hook", OWED, received, STATUS))


def note(subject="t1", **changes):
    whole = {"note": f"task-{subject}", "state": "undeliverable", "targets": ["dead"], "tries": 6, "error": "refused"}
    return {**whole, **changes}


def test_what_was_given_up_and_is_listed_is_good():
    assert given_up("dead", {"t1"}, [note(), note("t2", targets=["other"], state="waiting")], 6) == []


@pytest.mark.parametrize(
    ("notes", "finding"),
    [
        ([], "of t1 is listed nowhere"),
        ([note(state="waiting")], "task-t1 still waits for dead"),
        ([note(tries=5)], "given up after 5 tries, not 6"),
        ([note(error="")], "does not say why"),
    ],
)
def test_each_planted_violation_of_giving_up_is_found(notes, finding):
    assert any(finding in line for line in given_up("dead", {"t1"}, notes, 6))
