"""When and how often: words of the command line as task fields."""

from __future__ import annotations

import pytest

from swarm.cli.command_options import SubmitRequest
from swarm.cli.run.input_options import moment, task_fields, with_defaults
from swarm.clock import parse_iso
from swarm.errors import InputError

NOW_S = parse_iso("2026-02-07T21:05:00")


@pytest.mark.parametrize(
    ("text", "local"),
    [
        ("10m", "2026-02-07T21:15:00"),
        ("1h30m", "2026-02-07T22:35:00"),
        ("22:00", "2026-02-07T22:00:00"),
        ("21:05", "2026-02-08T21:05:00"),
        ("06:30", "2026-02-08T06:30:00"),
        ("2026-02-09", "2026-02-09T00:00:00"),
        ("2026-02-09T08:00", "2026-02-09T08:00:00"),
        ("2026-02-09 08:00:30", "2026-02-09T08:00:30"),
    ],
)
def test_moments(text, local):
    found = moment(text, NOW_S)
    assert parse_iso(found) == parse_iso(local)
    assert found[-6] in "+-", "with its offset, as tasks want it"


def test_a_time_with_an_offset_is_meant_there():
    assert parse_iso(moment("2026-02-09T08:00:00+05:00", NOW_S)) == parse_iso("2026-02-09T03:00:00+00:00")


@pytest.mark.parametrize("text", ["", "soon", "10", "25:00", "22:00+01:00", "2026-13-01", "99999999999w", "-5m"])
def test_what_is_no_time_is_refused_with_a_way_out(text):
    with pytest.raises(InputError, match="not-before") as caught:
        moment(text, NOW_S)
    assert "22:00" in (caught.value.hint or "")


def test_fields_are_only_those_asked_for():
    assert task_fields(SubmitRequest()) == {}
    asked = task_fields(SubmitRequest(not_before="10m", timeout="5m", max_attempts=2, cache=True), NOW_S)
    assert asked == {"not_before": moment("10m", NOW_S), "timeout_s": 300.0, "max_attempts": 2, "cache": True}
    assert task_fields(SubmitRequest(timeout="90.5"))["timeout_s"] == 90.5


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "0s", "long"])
def test_a_timeout_is_a_time(text):
    with pytest.raises(InputError):
        task_fields(SubmitRequest(timeout=text))


def test_a_lines_own_word_wins():
    assert with_defaults({"timeout_s": 5}, {"timeout_s": 9, "priority": 1}) == {"timeout_s": 5, "priority": 1}
