"""Drafts: what a line becomes, and who it is."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest

from swarm.core.task import Task
from swarm.errors import InputError
from swarm.formats.input.source import ReadOptions
from swarm.formats.tasks.scan import Draft, drafts, validate
from swarm.formats.tasks.task_builder import unpack

M = ReadOptions(model="m:1b")


def drafts_of(folder: Path, lines: list[Any], options: ReadOptions = M, name: str = "a.jsonl") -> list[Draft]:
    path = str(folder / name)
    Path(path).write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return list(drafts(path, options, validate(path, options)))


def test_documents_are_tasks_of_the_core(tmp_path: Path) -> None:
    line = {
        "prompt": "Hi",
        "custom_id": "c/1 ü",
        "name": "n",
        "model": "other",
        "priority": 7,
        "session": "s",
        "depends_on": ["n0"],
        "timeout_s": 2.5,
        "max_attempts": 2,
        "not_before": "2026-02-07T21:05:50+01:00",
        "metadata": {"k": 1},
        "request": {"options": {"seed": 3}, "format": "json"},
        "notify": ["x"],
        "topic": "t",
    }
    options = ReadOptions(model="m", system="Be brief", options={"seed": 1, "temperature": 0})
    (draft,) = drafts_of(tmp_path, [line], options)
    task = msgspec.convert({"task_id": "t1", **draft.document}, Task, strict=True)
    assert task.request == {
        "messages": [{"role": "system", "content": "Be brief"}, {"role": "user", "content": "Hi"}],
        "format": "json",
        "options": {"seed": 3, "temperature": 0},
    }
    assert (task.model, task.priority, task.session, task.depends_on, task.custom_id) == ("other", 7, "s", ("n0",), "c/1 ü")
    assert (task.timeout_s, task.max_attempts, task.name, task.metadata["k"]) == (2.5, 2, "n", 1)
    assert unpack(draft.document) == line
    assert list(unpack(draft.document)) == list(line)
    assert "Hi" not in json.dumps(task.metadata)


@pytest.mark.parametrize(
    ("line", "options", "request_part"),
    [
        (
            {"q": "x"},
            ReadOptions(model="m", prompt_field="q", endpoint="/api/generate", system="s"),
            {"prompt": "x", "system": "s"},
        ),
        ({"prompt": ["a", "b"]}, ReadOptions(model="m", endpoint="/api/embed"), {"input": ["a", "b"]}),
        ({"prompt": "a"}, ReadOptions(model="m", endpoint="/api/embed"), {"input": "a"}),
        ({"a": "x", "b": 2}, ReadOptions(model="m", template="{a}-{b}"), {"messages": [{"role": "user", "content": "x-2"}]}),
        (
            {"messages": [{"role": "user", "content": "x"}]},
            ReadOptions(model="m", system="s"),
            {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "x"}]},
        ),
        (
            {"prompt": "x", "messages": [{"role": "system", "content": "own"}, {"role": "user", "content": "y"}]},
            ReadOptions(model="m", system="s", prompt_field="messages"),
            {"messages": [{"role": "system", "content": "own"}, {"role": "user", "content": "y"}]},
        ),
        (
            {"priority": "high", "n": 1},
            ReadOptions(model="m", prompt_field="priority"),
            {"messages": [{"role": "user", "content": "high"}]},
        ),
    ],
)
def test_prompts_become_requests(
    tmp_path: Path, line: dict[str, Any], options: ReadOptions, request_part: dict[str, Any]
) -> None:
    (draft,) = drafts_of(tmp_path, [line], options)
    assert draft.document["request"] == request_part
    assert draft.document["endpoint"] == options.endpoint
    assert unpack(draft.document) == line


def test_csv_columns_act_as_task_fields(tmp_path: Path) -> None:
    rows = ["prompt,priority,timeout_s,depends_on,metadata,session", 'hi,8,1.5,"a, b","{""k"": 1}",', "ho,,,,,"]
    first, second = drafts_of(tmp_path, rows, name="a.csv")
    assert first.document["priority"] == 8
    assert first.document["timeout_s"] == 1.5
    assert first.document["depends_on"] == ["a", "b"]
    assert first.document["metadata"]["k"] == 1
    assert not {"priority", "session", "depends_on"} & second.document.keys()
    assert unpack(second.document) == {
        "prompt": "ho",
        "priority": "",
        "timeout_s": "",
        "depends_on": "",
        "metadata": "",
        "session": "",
    }


def test_names_come_from_a_column(tmp_path: Path) -> None:
    options = ReadOptions(model="m", name_field="id")
    assert [
        d.document["name"] for d in drafts_of(tmp_path, [{"prompt": "x", "id": 5}, {"prompt": "x", "id": "b"}], options)
    ] == ["5", "b"]
    with pytest.raises(InputError) as caught:
        drafts_of(tmp_path, [{"prompt": "x", "idd": 5}], options)
    assert "did you mean 'idd'" in caught.value.problems[0]


def test_keys_follow_content_not_place(tmp_path: Path) -> None:
    lines = [{"prompt": "a"}, {"prompt": "b", "custom_id": "1"}, {"prompt": "a"}, {"prompt": "a", "t": 1}, {"prompt": "c"}]
    keys = [d.item_key for d in drafts_of(tmp_path, lines)]
    assert len(set(keys)) == 5
    moved = [{"prompt": "new"}, *reversed(lines)]
    again = [d.item_key for d in drafts_of(tmp_path, moved)]
    assert set(keys) < set(again)
    assert again[1:2] == keys[4:5]


def test_keys_ignore_column_order_and_scheduling_but_not_content(tmp_path: Path) -> None:
    def key(line: Any, options: ReadOptions = M) -> str:
        return drafts_of(tmp_path, [line], options)[0].item_key

    base = key({"prompt": "a", "t": 1})
    assert base == key({"t": 1, "prompt": "a"}) == key('{"prompt":"\\u0061",  "t":1}')
    assert (
        len(
            {
                base,
                key({"prompt": "a", "t": 2}),
                key({"prompt": "b", "t": 1}),
                key({"prompt": "a", "t": 1, "custom_id": "x"}),
            }
        )
        == 4
    )
    assert len({key({"prompt": "a", "custom_id": "x"}), key({"prompt": "b", "custom_id": "x"})}) == 2
    assert base != key({"prompt": "a", "t": 1}, ReadOptions(model="m2"))


def test_limit_reads_no_further_and_keeps_keys(tmp_path: Path) -> None:
    lines = [{"prompt": "a"}, {"prompt": "a"}, {"prompt": "a"}, "not json"]
    few = [d.item_key for d in drafts_of(tmp_path, lines, ReadOptions(model="m:1b", limit=1))]
    assert few == [d.item_key for d in drafts_of(tmp_path, lines[:3])][:1]


def test_file_that_changes_between_the_readings_is_refused(tmp_path: Path) -> None:
    path = str(tmp_path / "a.txt")
    Path(path).write_text("a\nb\n")
    scan = validate(path, M)
    os.utime(path, ns=(1, 1))
    with pytest.raises(InputError, match="changed while"):
        next(drafts(path, M, scan))


def test_options_that_make_no_sense(tmp_path: Path) -> None:
    for options in (ReadOptions(model="no model"), ReadOptions(model="m", endpoint="/api/embed", system="s")):
        with pytest.raises(InputError) as caught:
            drafts_of(tmp_path, [{"prompt": "a"}], options)
        assert caught.value.hint


def test_task_with_many_scheduling_bytes_is_measured_whole(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        drafts_of(tmp_path, [{"prompt": "a" * 400_000, "other": "b" * 400_000, "notify": ["c" * 300_000]}])
    assert "1 MiB" in caught.value.problems[0]
