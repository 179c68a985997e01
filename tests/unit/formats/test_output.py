"""Writing outputs: rows, OpenAI lines, CSV, and files that appear whole or not at all."""

from __future__ import annotations

import csv
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from swarm.errors import InputError
from swarm.formats.input.source import ReadOptions
from swarm.formats.output.writer import Pair, check_writable, errors_path_of, write_results
from swarm.formats.tasks.scan import Draft, drafts, validate

DATA = Path(__file__).parents[2] / "data"
M = ReadOptions(model="m:1b")
Finished = dict[str, Any]


def answer(draft: Draft, number: int) -> Finished | None:
    """A made-up end for each item: every fourth fails, every fifth has not ended."""
    base = {**draft.document, "task_id": f"t{number}", "created_at": "2026-02-07T21:05:50.000+01:00"}
    if number % 5 == 4:
        return None
    if number % 4 == 3:
        error = {"type": "timeout", "message": "no answer in 600 s", "retryable": True}
        return base | {"status": "failed", "completed_at": "2026-02-07T21:06:00.000+01:00", "error": error, "attempts": []}
    result: Finished = {
        "model": "m:1b",
        "done": True,
        "done_reason": "stop",
        "total_duration": 1_500_000_000,
        "load_duration": 250_000_000,
    }
    match draft.document["endpoint"]:
        case "/api/chat":
            result |= {"message": {"role": "assistant", "content": f"answer {number}"}}
        case "/api/generate":
            result |= {"response": f"answer {number}"}
        case _:
            result |= {"embeddings": [[0.5, number]]}
    result |= {"prompt_eval_count": 7, "eval_count": 50, "eval_duration": 500_000_000}
    return base | {"status": "completed", "completed_at": "2026-02-07T21:06:00.000+01:00", "result": result, "attempts": []}


def pairs_of(path: str, options: ReadOptions) -> list[Pair]:
    scan = validate(path, options)
    return [(draft.document, answer(draft, number)) for number, draft in enumerate(drafts(path, options, scan))]


def lines_of(path: Path | str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


@pytest.mark.parametrize(
    ("name", "out", "options"),
    [
        ("openai.jsonl", "openai.out.jsonl", M),
        ("plain.jsonl", "plain.out.jsonl", M),
        ("plain.jsonl", "plain.out.csv", M),
        ("people.csv", "people.out.jsonl", ReadOptions(model="m:1b", template="Greet {name} in {language}")),
        ("people.csv", "people.out.csv", ReadOptions(model="m:1b", prompt_field="hobby", endpoint="/api/generate")),
    ],
)
def test_golden_files(tmp_path: Path, name: str, out: str, options: ReadOptions) -> None:
    """To renew them after a change that is meant: ``RENEW_GOLDEN=1 pytest tests/unit/formats/test_output.py``."""
    folder = DATA / "outputs" if os.environ.get("RENEW_GOLDEN") else tmp_path
    written = write_results(str(folder / out), pairs_of(str(DATA / "inputs" / name), options), openai=name == "openai.jsonl")
    for path in filter(None, (str(folder / out), written.errors_path)):
        assert Path(path).read_bytes() == (DATA / "outputs" / os.path.basename(path)).read_bytes()
    assert (written.errors_path is not None) == (name == "openai.jsonl")
    assert written.rows == written.completed + written.failed + written.cancelled + written.unfinished > 0


def test_stored_tasks_and_those_of_drafts_give_the_same_output(tmp_path: Path) -> None:
    pairs = pairs_of(str(DATA / "inputs" / "plain.jsonl"), M)
    stored: list[Pair] = [({**d, "task_id": f"t{i}", "batch_id": "b"}, f) for i, (d, f) in enumerate(pairs)]
    write_results(str(tmp_path / "a.jsonl"), pairs)
    write_results(str(tmp_path / "b.jsonl"), stored)
    first, second = lines_of(tmp_path / "a.jsonl"), lines_of(tmp_path / "b.jsonl")
    assert [row | {"task_id": 0} for row in first] == [row | {"task_id": 0} for row in second]


def test_colliding_columns_lose_nothing(tmp_path: Path) -> None:
    source = tmp_path / "a.jsonl"
    line = {"prompt": "p", "response": "old", "input_response": "older", "model": "m:1b", "error": 7, "usage": None}
    source.write_text(json.dumps(line))
    write_results(str(tmp_path / "o.jsonl"), pairs_of(str(source), M))
    (row,) = lines_of(tmp_path / "o.jsonl")
    assert row["response"] == "answer 0"
    assert row["input_input_response"] == "old"
    assert row["input_response"] == "older"
    assert row["input_error"] == 7
    assert row["input_usage"] is None
    assert row["model"] == "m:1b"
    assert "input_model" not in row


def test_row_tells_timings_thinking_and_simulation(tmp_path: Path) -> None:
    result = {
        "message": {"content": "x", "thinking": "t"},
        "usage": {"prompt_tokens": 1, "completion_tokens": 2},
        "done_reason": "length",
    }
    attempts = [
        {
            "attempt": 1,
            "worker": "w",
            "started_at": "2026-01-01T00:00:00.000+00:00",
            "ended_at": "2026-01-01T00:00:02.500+00:00",
        }
    ]
    finished = {
        "task_id": "t",
        "model": "m",
        "status": "completed",
        "result": result,
        "attempts": attempts,
        "simulated": True,
    }
    write_results(str(tmp_path / "o.jsonl"), [({"model": "m"}, finished)])
    (row,) = lines_of(tmp_path / "o.jsonl")
    assert row == {
        "response": "x",
        "finish_reason": "length",
        "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3},
        "duration_s": 2.5,
        "load_s": None,
        "tokens_per_s": None,
        "model": "m",
        "task_id": "t",
        "status": "completed",
        "error": None,
        "thinking": "t",
        "simulated": True,
    }


def test_csv_has_every_column_of_any_row(tmp_path: Path) -> None:
    source = tmp_path / "a.jsonl"
    source.write_text('{"prompt": "a, \\"b\\"\\nc"}\n{"prompt": "d", "tags": ["x", "é"], "ok": true}\n')
    write_results(str(tmp_path / "o.CSV"), pairs_of(str(source), M))
    with open(tmp_path / "o.CSV", newline="", encoding="utf-8") as stream:
        first, second = csv.DictReader(stream)
    assert (first["prompt"], first["tags"], first["response"], first["completion_tokens"]) == (
        'a, "b"\nc',
        "",
        "answer 0",
        "50",
    )
    assert (second["tags"], second["ok"]) == ('["x","é"]', "true")


def test_openai_errors_file_goes_where_asked_and_an_old_one_goes_away(tmp_path: Path) -> None:
    pairs = pairs_of(str(DATA / "inputs" / "openai.jsonl"), M)
    out, aside = str(tmp_path / "o.jsonl"), str(tmp_path / "bad.jsonl")
    assert write_results(out, pairs, openai=True, errors_path=aside).errors_path == aside
    assert not os.path.exists(errors_path_of(out))
    good = [(d, f) for d, f in pairs if f is not None and f["status"] == "completed"]
    assert write_results(out, good, openai=True, errors_path=aside).errors_path is None
    assert not os.path.exists(aside)
    os.mkfifo(tmp_path / "pipe")
    write_results(out, good, openai=True, errors_path=str(tmp_path / "pipe"))
    assert (tmp_path / "pipe").exists(), "what is no regular file is never removed"
    assert write_results(out, pairs, openai=True, errors_path=out).errors_path is None
    assert len(lines_of(out)) == len(pairs)
    write_results(out, good, openai=True)
    assert [line["custom_id"] for line in lines_of(out)] == [d["custom_id"] for d, _ in good]


def test_nothing_changes_when_writing_breaks(tmp_path: Path) -> None:
    out = tmp_path / "o.jsonl"
    out.write_text("before")
    (tmp_path / "o.errors.jsonl").write_text("before too")
    pairs = pairs_of(str(DATA / "inputs" / "openai.jsonl"), M)

    def broken() -> Iterator[Pair]:
        yield from pairs
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        write_results(str(out), broken(), openai=True)
    assert out.read_text() == "before"
    assert (tmp_path / "o.errors.jsonl").read_text() == "before too"
    assert sorted(os.listdir(tmp_path)) == ["o.errors.jsonl", "o.jsonl"]


def test_replaces_keeping_mode_and_following_links(tmp_path: Path) -> None:
    real, link = tmp_path / "real.jsonl", tmp_path / "link.jsonl"
    real.write_text("old")
    real.chmod(0o640)
    link.symlink_to(real)
    write_results(str(link), [({"model": "m"}, None)])
    assert link.is_symlink()
    assert lines_of(real)[0]["status"] == "unfinished"
    assert stat.S_IMODE(real.stat().st_mode) == 0o640


def test_standard_output_and_devices(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    pairs = pairs_of(str(DATA / "inputs" / "openai.jsonl"), M)
    check_writable("-")
    check_writable("/dev/null")
    assert write_results("/dev/null", [({"model": "m"}, None)]).rows == 1
    for stream in ("-", "/dev/stdout", "/dev/null"):
        assert write_results(stream, pairs, openai=True).errors_path is None
        told = capfdbinary.readouterr().out.splitlines()
        wanted = [] if stream == "/dev/null" else [d["custom_id"] for d, _ in pairs]
        assert [json.loads(line)["custom_id"] for line in told] == wanted, "failures go where the rest goes"


def test_check_writable_finds_out_before_any_work(tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text("{}")
    (tmp_path / "same.jsonl").hardlink_to(source)
    check_writable(str(tmp_path / "out.jsonl"), input_path=str(source))
    assert sorted(os.listdir(tmp_path)) == ["in.jsonl", "same.jsonl"]
    for path in (str(tmp_path / "none" / "o.jsonl"), str(tmp_path), "", str(tmp_path / "same.jsonl"), "/proc/o.jsonl"):
        with pytest.raises(InputError) as caught:
            check_writable(path, input_path=str(source))
        assert caught.value.hint
