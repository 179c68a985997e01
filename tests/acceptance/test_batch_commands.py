"""Batches and the options of run and submit, as a user types them."""

import json

import pytest
from typer.testing import CliRunner

from swarm.cli.app import app
from tests.helpers.cli import user

MODEL = "llama3.2:3b"


@pytest.fixture(scope="module")
def somebody(tmp_path_factory):
    with user(tmp_path_factory.mktemp("batch")) as person:
        person.ok("up", "--simulate", "1", "--detach")
        yield person


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_dry_run_writes_nothing(tmp_path):
    with user(tmp_path) as someone:
        someone.prompts(5)
        said = someone.json(
            "run", "prompts.jsonl", "-o", "out.jsonl", "--model", MODEL, "--dry-run", "--option", "num_predict=7"
        )
        assert (said["items"], said["new"], said["models"]) == (5, 5, {MODEL: 5})
        assert said["first_tasks"][0]["request"]["options"] == {"num_predict": 7}
        assert someone.json("run", "prompts.jsonl", "--model", MODEL, "--dry-run")["items"] == 5
        nowhere = someone.run("run", "prompts.jsonl", "--model", MODEL)
        assert (nowhere.returncode, "-o OUT is missing" in nowhere.stderr) == (2, True)
        assert {p.name for p in tmp_path.iterdir()} == {"prompts.jsonl"}


def test_longest_first_in_the_inputs_order_and_its_report(somebody):
    path = somebody.folder / "sizes.jsonl"
    path.write_text("".join(json.dumps({"prompt": "word " * n, "n": n}) + "\n" for n in range(1, 9)))
    done = somebody.json("run", "sizes.jsonl", "-o", "sizes.out", "--model", MODEL, "--sort", "longest")
    rows = lines_of(somebody.folder / "sizes.out")
    assert [row["n"] for row in rows] == list(range(1, 9))
    ids = [row["task_id"] for row in rows]
    assert ids == sorted(ids, reverse=True), "ids rise in the order of submission"
    report = json.loads((somebody.root / "batches" / f"{done['batch_id']}.report.json").read_text())
    assert report["counts"] == {"items": 8, "completed": 8, "failed": 0, "cancelled": 0, "left": 0}
    assert report["source"]["bytes"] == path.stat().st_size
    (digests,) = (model["digests"] for model in report["models"].values())
    assert list(digests.values()) == [8]
    assert report["versions"]["servers"] == {"worker-1": "0.0.0-simulated"}
    assert report["cards"]
    shown = somebody.json("batch", "show", done["batch_id"])
    assert shown["report"]["tokens"] == report["tokens"]
    assert shown["batch"]["card_s"] == pytest.approx(report["card_s"])
    (gave,) = shown["gave"]["workers"]
    assert (gave["items"], gave["tokens_out"], gave["worker"]) == (8, report["tokens"]["out"], "worker-1")
    assert gave["tokens_out_per_s"] == pytest.approx(gave["tokens_out"] / gave["worked_s"], rel=0.01)
    assert shown["gave"]["energy_j"] == report["energy_j"] > 0, "simulated cards have simulated power"
    assert "of work" in somebody.ok("batch", "show", done["batch_id"])


def test_the_first_of_a_known_batch_leave_the_rest_in_it(somebody):
    schema = somebody.folder / "some.json"
    schema.write_text(json.dumps({"type": "object", "properties": {"answer": {"type": "string"}}, "required": ["answer"]}))
    somebody.prompts(5, "some.jsonl")
    command = ("run", "some.jsonl", "-o", "some.out", "--model", MODEL, "--schema", "some.json", "--option", "num_predict=2")
    batch = json.loads(somebody.run(*command, "--json").stdout)["batch_id"]
    assert len(lines_of(somebody.folder / "some.out")) == 5
    few = somebody.run(*command, "--limit", "2")
    assert few.returncode == 1
    assert [row["n"] for row in lines_of(somebody.folder / "some.out")] == [0, 1]
    assert "requeued: 2 items" in somebody.run(*command, "--limit", "2", "--retry-failed").stdout
    assert json.loads((somebody.root / "batches" / f"{batch}.report.json").read_text())["counts"]["items"] == 5
    row = somebody.json("batch", "show", batch)["batch"]
    assert (row["items"], row["left"]) == (5, 0)
    somebody.run("results", batch, "-o", "all.out")
    assert [row["n"] for row in lines_of(somebody.folder / "all.out")] == [0, 1, 2, 3, 4]


def test_failures_of_a_batch_are_put_back(somebody):
    schema = somebody.folder / "schema.json"
    schema.write_text(json.dumps({"type": "object", "properties": {"answer": {"type": "string"}}, "required": ["answer"]}))
    somebody.prompts(3, "form.jsonl")
    command = (
        "run",
        "form.jsonl",
        "-o",
        "form.out",
        "--model",
        MODEL,
        "--schema",
        "schema.json",
        "--option",
        "num_predict=2",
    )
    first = somebody.run(*command, "--json")
    assert first.returncode == 1, first.stderr
    batch = json.loads(first.stdout)["batch_id"]
    assert {row["error"]["type"] for row in lines_of(somebody.folder / "form.out")} == {"cut_short"}
    assert "nothing to do" in somebody.run(*command).stdout
    assert "requeued: 3 items" in somebody.run(*command, "--retry-failed").stdout
    assert somebody.json("batch", "retry-failed", batch)["put_back"] == 3
    exported = somebody.run("batch", "export", batch, "-o", "again.out", "--json")
    assert json.loads(exported.stdout)["report"].endswith(f"{batch}.report.json")
    assert "form-" in somebody.ok("batches")


def test_what_a_retried_item_waits_for_is_run_again_where_it_was_purged(somebody):
    failing = {"format": {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}}
    first, second = {"name": "a", "prompt": "x"}, {"name": "b", "prompt": "{results.a.text}", "depends_on": ["a"]}
    lines = (first, {**second, "request": failing, "options": {"num_predict": 2}})
    (somebody.folder / "steps.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    command = ("run", "steps.jsonl", "-o", "steps.out", "--model", MODEL)
    assert somebody.run(*command).returncode == 1
    somebody.ok("queue", "purge", "--older-than", "0s", "--state", "completed")
    again = json.loads(somebody.run(*command, "--retry-failed", "--json").stdout)
    assert (again["new"], again["put_back"], again["completed"], again["failed"]) == (1, 1, 1, 1)


def test_failures_of_an_openai_batch_go_where_they_are_sent(somebody):
    request = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions"}
    body = {"model": "nomic-embed-text", "messages": [{"role": "user", "content": "x"}]}
    (somebody.folder / "openai.jsonl").write_text(json.dumps({**request, "body": body}) + "\n")
    done = somebody.run("run", "openai.jsonl", "-o", "openai.out", "--errors", "bad.jsonl")
    assert done.returncode == 1, done.stderr
    assert lines_of(somebody.folder / "bad.jsonl")[0]["custom_id"] == "a"


def test_a_feed_is_a_batch_to_all_who_look(somebody):
    (somebody.folder / "feed.txt").write_text("".join(f"line {n}\n" for n in range(40)))
    fed = somebody.json("feed", "feed.txt", "--model", MODEL, "--min", "5", "--target", "20", "--option", "num_predict=3")
    assert (fed["accepted"], fed["status"]) == (40, "finished")
    (seen,) = somebody.json("feeds")["feeds"]
    assert (seen["feed_id"], seen["alive"]) == (fed["feed_id"], False)
    somebody.ok("results", fed["feed_id"], "-o", "feed.out")
    assert [row["prompt"] for row in lines_of(somebody.folder / "feed.out")] == [f"line {n}" for n in range(40)]


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (("--endpoint", "chatt"), "did you mean 'chat'"),
        (("--format", "excel"), "--format"),
        (("--option", "num_predict"), "NAME=VALUE"),
        (("--schema", "missing.json"), "missing.json"),
        (("--errors", "x.jsonl"), "--errors belongs to OpenAI"),
    ],
)
def test_wrong_options_are_named(tmp_path, monkeypatch, options, complaint):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "a"}\n')
    done = CliRunner().invoke(app, ["run", "prompts.jsonl", "-o", "out.jsonl", "--model", MODEL, *options])
    assert done.exit_code == 2
    assert complaint in done.stderr
    assert not (tmp_path / "queue").exists()
