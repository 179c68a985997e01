"""`--cache` as a user meets it, on a simulated card; and when things begin."""

import json
import shutil

import pytest

from swarm.clock import parse_iso
from tests.helpers.cli import user

MODEL = "llama3.2:3b"


@pytest.fixture
def someone(tmp_path):
    with user(tmp_path) as person:
        yield person


def test_the_same_questions_in_another_batch_cost_nothing(someone):
    someone.prompts(6)
    shutil.copy(someone.folder / "prompts.jsonl", someone.folder / "again.jsonl")
    options = ("--model", MODEL, "--simulate", "1", "--cache")
    first = someone.json("run", "prompts.jsonl", "-o", "out.jsonl", *options)
    assert first["cached"]["requests"] == 0
    second = someone.json("run", "again.jsonl", "-o", "again.out", *options)
    saved = second["cached"]
    assert (second["completed"], saved["requests"]) == (6, 6)
    assert (saved["tokens_in"], saved["tokens_out"]) == (first["tokens_in"], first["tokens_out"])
    assert saved["seconds"] > 0
    assert (second["tokens_in"], second["tokens_out"]) == (0, 0), "nothing was spent"
    rows = [
        [json.loads(line)["response"] for line in (someone.folder / f).read_text().splitlines()]
        for f in ("out.jsonl", "again.out")
    ]
    assert rows[0] == rows[1]
    document = someone.queue.read(json.loads((someone.folder / "again.out").read_text().splitlines()[0])["task_id"])
    assert document["cached"] is True
    assert document["simulated"] is True
    assert [json.loads(line).get("cached") for line in (someone.folder / "out.jsonl").read_text().splitlines()] == [None] * 6
    assert [json.loads(line).get("cached") for line in (someone.folder / "again.out").read_text().splitlines()] == [True] * 6
    words = f"cache: 6 requests answered before; saved {saved['tokens_in']} tokens in, {saved['tokens_out']} out, "
    for shown in (someone.ok("batch", "show", second["batch_id"]), someone.ok("batches")):
        assert words in shown
    row = next(r for r in someone.json("batches")["batches"] if r["batch_id"] == second["batch_id"])
    assert (row["cached"], row["saved_in"], row["saved_out"]) == (6, saved["tokens_in"], saved["tokens_out"])
    assert row["saved_s"] == pytest.approx(saved["seconds"], abs=0.0015)
    third = someone.ok("run", "again.jsonl", "-o", "again.out", *options)
    assert "cache: 6 requests answered before; saved" in third
    someone.ok("queue", "fsck")


def test_tasks_begin_when_told_and_carry_their_limits(someone):
    someone.prompts(2)
    limits = ("--timeout", "5m", "--max-attempts", "2", "--no-cache")
    someone.ok("submit", "prompts.jsonl", "--model", MODEL, "--delay", "1h", *limits)
    someone.ok("submit", "--prompt", "Hi", "--model", MODEL, "--not-before", "2999-01-01", *limits)
    files = sorted((someone.root / "blocked").iterdir())
    assert len(files) == 3
    for file in files:
        task = json.loads(file.read_text())
        assert (task["timeout_s"], task["max_attempts"], task["cache"]) == (300.0, 2, False)
        assert parse_iso(task["not_before"]) > parse_iso(task["created_at"]) + 3500
    dry = someone.json("run", "prompts.jsonl", "-o", "x", "--model", MODEL, "--dry-run", *limits)
    assert dry["first_tasks"][0]["timeout_s"] == 300.0
    refused = someone.run("run", "prompts.jsonl", "-o", "x", "--model", MODEL, "--not-before", "someday")
    assert refused.returncode != 0
    assert "22:00" in refused.stderr


def test_a_table_of_pictures_is_looked_at(someone):
    (someone.folder / "pics").mkdir()
    for name in ("a", "b"):
        (someone.folder / f"pics/{name}.png").write_bytes(b"\x89PNG\r\n\x1a\n" + name.encode() * 2_000_000)
    (someone.folder / "pics.csv").write_text("prompt,images\nWhat is it?,pics/a.png\nAnd this?,pics/b.png\n")
    done = someone.json("run", "pics.csv", "-o", "out.csv", "--model", MODEL, "--simulate", "1")
    assert (done["completed"], done["failed"]) == (2, 0)
    (someone.folder / "pics.csv").write_text("prompt,images\nWhat?,pics/none.png\n")
    refused = someone.run("run", "pics.csv", "-o", "out.csv", "--model", MODEL)
    assert refused.returncode == 2
    assert "pics.csv:2: images: 'pics/none.png' cannot be read" in refused.stderr
