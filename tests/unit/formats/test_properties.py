"""What must hold for any input: never a crash, always a line number, identity by content, and columns come back."""

from __future__ import annotations

import csv
import json
import random
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from swarm.errors import InputError
from swarm.formats.input.source import Format, ReadOptions
from swarm.formats.output.writer import write_results
from swarm.formats.tasks.columns import FIELD_NAMES
from swarm.formats.tasks.scan import Draft, Repeats, drafts, validate
from swarm.formats.tasks.task_builder import DIGEST_BYTES, unpack

SETTINGS = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
FRAGMENTS = st.sampled_from(
    [
        b'{"prompt": "a"}',
        b'{"custom_id": "x", ',
        b'"url": "/v1/chat/completions", "body": {}}',
        b"\n",
        b"\r\n",
        b"\xef\xbb\xbf",
        b"\0",
        b"\xff",
        b'"',
        b",",
        b"\\ud800",
        b"{",
        b"[",
        b"NaN",
        b";a;b",
    ]
)
BYTES = st.binary(max_size=60) | st.lists(FRAGMENTS, max_size=12).map(b"".join)


def drafts_of(path: Path, options: ReadOptions) -> list[Draft]:
    scan = validate(str(path), options)
    found = list(drafts(str(path), options, scan))
    assert len(found) == scan.items
    return found


@pytest.mark.parametrize("form", ["jsonl", "openai", "csv", "text"])
@SETTINGS
@given(content=BYTES)
def test_any_bytes_are_drafts_or_problems_with_a_line(tmp_path: Path, form: Format, content: bytes) -> None:
    path = tmp_path / "input"
    path.write_bytes(content)
    try:
        found = drafts_of(path, ReadOptions(model="m", format=form))
    except InputError as error:
        told = [line for line in error.problems if not line.startswith("…")] or [error.message]
        whole_file = "empty" in error.message or "only blank" in error.message or "no item" in error.message
        assert whole_file or all(re.match(rf"{re.escape(str(path))}:\d+: ", line) for line in told)
        assert error.hint
    else:
        assert found


TASK_LIKE = FIELD_NAMES | {"messages", "prompt"}
COLUMNS = st.dictionaries(TEXT.filter(lambda name: name not in TASK_LIKE), JSON, max_size=4)


@SETTINGS
@given(records=st.lists(st.tuples(TEXT.filter(bool), COLUMNS), min_size=1, max_size=6), seed=st.integers())
def test_columns_come_back_and_keys_follow_content(
    tmp_path: Path, records: list[tuple[str, dict[str, Any]]], seed: int
) -> None:
    rows = [{**columns, "prompt": prompt} for prompt, columns in records]
    options = ReadOptions(model="m", format="jsonl")
    path = tmp_path / "a.jsonl"

    def read(lines: list[dict[str, Any]]) -> list[Draft]:
        path.write_text("\n".join(json.dumps(line) for line in lines))
        return drafts_of(path, options)

    found = read(rows)
    assert [unpack(draft.document) for draft in found] == rows
    assert [list(unpack(draft.document)) for draft in found] == [list(row) for row in rows]
    assert len({draft.item_key for draft in found}) == len(rows)

    shuffled = list(rows)
    random.Random(seed).shuffle(shuffled)
    again = read([{"prompt": "another one in front"}, *shuffled])[1:]
    text = {draft.item_key: json.dumps(unpack(draft.document), sort_keys=True) for draft in found}
    if not any(row["prompt"] == "another one in front" for row in rows):
        assert text == {draft.item_key: json.dumps(unpack(draft.document), sort_keys=True) for draft in again}


@SETTINGS
@given(
    names=st.lists(
        TEXT.filter(lambda n: n.strip() == n and n not in TASK_LIKE and not set(n) & set("\r\n;\t,")),
        min_size=1,
        unique=True,
    ),
    data=st.data(),
)
def test_csv_round_trip(tmp_path: Path, names: list[str], data: st.DataObject) -> None:
    names = ["prompt", *filter(None, names)]
    cell = TEXT.map(lambda text: text.replace("\r", ""))
    rows = data.draw(st.lists(st.tuples(cell.filter(bool), *[cell] * (len(names) - 1)), min_size=1, max_size=4))
    path, out = tmp_path / "a.csv", tmp_path / "o.csv"
    with open(path, "w", newline="", encoding="utf-8") as stream:
        csv.writer(stream, quoting=csv.QUOTE_ALL).writerows([names, *rows])
    found = drafts_of(path, ReadOptions(model="m"))
    assert [tuple(unpack(draft.document).values()) for draft in found] == rows
    write_results(str(out), [(draft.document, None) for draft in found])
    with open(out, newline="", encoding="utf-8") as stream:
        assert [row["prompt"] for row in csv.DictReader(stream)] == [row[0] for row in rows]


@SETTINGS
@given(numbers=st.lists(st.integers(0, 20), max_size=60))
def test_repeats_are_exactly_the_later_occurrences(numbers: list[int]) -> None:
    with Repeats() as repeats:
        for line_no, number in enumerate(numbers, start=1):
            repeats.add((number * 7919).to_bytes(DIGEST_BYTES, "little"), line_no)
        found = {(first, line_no) for _, first, line_no in repeats.found()}
    assert found == {(numbers.index(n) + 1, i) for i, n in enumerate(numbers, start=1) if numbers.index(n) + 1 != i}
