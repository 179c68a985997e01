"""The judge of a long feed finds whatever is planted: it must not be the part that looks away."""

import pytest

from tests.endurance.line_checks import Expected, LineLedger

HEAD = "feed-x"


def prompt(number):
    return f"line {number}"


def record(number, **changes):
    asked = prompt(number)
    whole = {
        "task_id": f"{HEAD}-{number:010d}",
        "status": "completed",
        "request": {"messages": [{"role": "user", "content": asked}]},
        "result": {"message": {"content": asked[::-1]}},
    }
    return {**whole, **changes}


EXPECTED = Expected(HEAD, prompt, lambda text: text[::-1])


def judged(records, numbers=range(1, 11)):
    ledger = LineLedger(numbers)
    ledger.note(EXPECTED.line_of(one) for one in records)
    return ledger.findings()


def test_all_lines_once_are_good_in_any_order():
    assert judged([record(number) for number in reversed(range(1, 11))]) == []
    assert judged([record(number) for number in range(2, 5)], range(2, 5)) == []


@pytest.mark.parametrize(
    ("planted", "finding"),
    [
        (lambda records: records[:3] + records[4:], "line 4 has no record"),
        (lambda records: records[:-1], "line 10 has no record"),
        (lambda records: [*records, record(7)], "line 7 has more than one record"),
        (lambda records: [*records, record(11)], "line 11 is not in the input"),
        (lambda records: [*records, record(0)], "line 0 is not in the input"),
        (lambda records: [*records, record(1, task_id="01k0000000000abcd")], "01k0000000000abcd comes from no line"),
        (lambda records: [*records[1:], record(1, status="failed", error={"type": "crash"})], "is failed"),
        (lambda records: [*records[1:], {**record(2), "task_id": record(1)["task_id"]}], "asks something else"),
        (lambda records: [*records[1:], record(1, result=record(2)["result"])], "another line's answer"),
        (lambda records: [*records[1:], record(1, result=None)], "another line's answer, or none"),
    ],
)
def test_each_planted_violation_is_found(planted, finding):
    found = judged(planted([record(number) for number in range(1, 11)]))
    assert any(finding in line for line in found), found


def test_many_of_one_kind_are_counted():
    found = judged([], range(1, 1001))
    assert len(found) == 6
    assert found[-1] == "… and 995 more: has no record"
