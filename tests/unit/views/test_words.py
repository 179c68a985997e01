"""Durations and counts are read and written as people do."""

from __future__ import annotations

import pytest

from swarm.errors import InputError
from swarm.views.words import count, duration, mib, parse_duration_s, plural, rate


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("24h", 86400),
        ("90s", 90),
        ("2d", 172800),
        ("1h30m", 5400),
        ("1h 30m", 5400),
        ("500ms", 0.5),
        ("1.5h", 5400),
        ("1W", 604800),
    ],
)
def test_durations_are_read(text, seconds):
    assert parse_duration_s(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "5", "h", "-5m", "1h30", "yesterday", "1h;2m", "5 minutes"])
def test_what_is_no_duration_is_refused_with_examples(text):
    with pytest.raises(InputError) as caught:
        parse_duration_s(text)
    assert repr(text) in caught.value.message
    assert "24h" in caught.value.hint


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "-"),
        (0.44, "0.4s"),
        (34, "34s"),
        (59.7, "1m00s"),
        (372, "6m12s"),
        (11100, "3h05m"),
        (187200, "2d04h"),
        (-3, "0.0s"),
    ],
)
def test_durations_are_written(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0"), (1319, "1,319"), (12_400, "12.4k"), (999_999, "1.0M"), (3_100_000, "3.1M"), (2e9, "2.0G")]
)
def test_counts_are_short(number, text):
    assert count(number) == text


def test_rates_memory_and_nouns():
    assert [rate(None), rate(0.25), rate(7.94), rate(1234)] == ["-", "0.25/s", "7.9/s", "1,234/s"]
    assert [mib(None, None), mib(None, 24576), mib(3400, 24576)] == ["-", "?/24.0G", "3.3/24.0G"]
    assert [plural(1, "task"), plural(1200, "task")] == ["1 task", "1,200 tasks"]
