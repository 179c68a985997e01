"""The commands as a user types them, on built data: what they print, as text and JSON, and how they end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from swarm.cli.app import app
from swarm.cli.command_options import Outcome
from swarm.cli.run import pipeline
from swarm.config.schema import schema_text
from swarm.views import model_rows
from swarm.views.model_rows import OnDisk
from tests.helpers.cli_world import MODEL, Counts, MemoryQueue, World, healthy, lane, swarm

REPOSITORY = Path(__file__).parents[3]


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("SWARM_")]:
        monkeypatch.delenv(name)
    (tmp_path / "queue").mkdir()
    return tmp_path / "queue"


@pytest.fixture
def world(root, monkeypatch):
    counts = Counts(
        pending={"llm@llama3.2:3b": 123, "cpu": 2},
        processing={"worker-1": 1},
        completed=200,
        failed=4,
        oldest_pending_s=12.0,
    )
    documents = {
        "d5de16d7": {
            "task_id": "d5de16d7",
            "task_class": "llm",
            "model": "llama3.2:3b",
            "state": "processing",
            "worker": "worker-1",
        },
        "waiting1": {
            "task_id": "waiting1",
            "task_class": "llm",
            "model": "llama3.2:3b",
            "state": "pending",
            "name": "first",
        },
        "waiting2": {"task_id": "waiting2", "task_class": "llm", "model": "qwen2.5:7b", "state": "pending"},
        "dead1": {
            "task_id": "dead1",
            "task_class": "cpu",
            "state": "failed",
            "error": {"type": "exit_code", "message": "was 3"},
        },
        "done1": {"task_id": "done1", "task_class": "cpu", "state": "completed"},
    }
    made = World(MemoryQueue(counts, documents), healthy())
    made.brain = True
    monkeypatch.setattr("swarm.queue.file_queue.FileQueue", lambda root, durability: made.queue)
    monkeypatch.setattr("swarm.brain.observe.Observer", lambda *_: made)
    monkeypatch.setattr("swarm.queue.coordination.is_held", lambda layout, name: made.brain and name == "brain")
    on_disk = {name: OnDisk(size_mib=2048, workers=("worker-1",)) for name in (MODEL, "idle:7b")}
    monkeypatch.setattr(model_rows, "installed_models", lambda snapshot, root: on_disk)
    return made


def call(*argv: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, list(argv))
    assert result.exit_code == code, (result.stdout, result.stderr, result.exception)
    return result.stdout if code in (0, 3) and result.stdout else result.stderr


def test_queue_stats(world):
    document = json.loads(call("queue", "stats", "--json"))
    assert document["pending"] == {"total": 125, "by_class": {"cpu": 2, "llm": 123}, "by_model": {"llama3.2:3b": 123}}
    wanted = {"blocked": 0, "processing": 1, "completed": 200, "failed": 4, "cancelled": 0, "corrupt": 0, "stuck": 0}
    assert {name: document[name] for name in wanted} == wanted
    assert document["oldest_pending_s"] == 12.0
    text = call("queue", "stats")
    assert "waiting: cpu 2, llm 123; the oldest for 12s" in text


def test_queue_list(world):
    assert [row["task_id"] for row in json.loads(call("queue", "list", "--json"))["tasks"]] == ["waiting1", "waiting2"]
    assert [r["task_id"] for r in json.loads(call("queue", "list", "--model", "QWEN2.5:7b", "--json"))["tasks"]] == [
        "waiting2"
    ]
    assert [r["task_id"] for r in json.loads(call("queue", "list", "--lane", "llm@qwen2.5:7b", "--json"))["tasks"]] == [
        "waiting2"
    ]
    limited = json.loads(call("queue", "list", "-n", "1", "--json"))
    assert ([row["task_id"] for row in limited["tasks"]], limited["more"]) == (["waiting1"], True)
    assert "exit_code: was 3" in call("queue", "list", "failed")
    assert call("queue", "list", "--state", "failed") == call("queue", "list", "failed")
    assert call("queue", "list", "blocked") == "no blocked tasks\n"
    assert call("queue", "list", "blocked", "--model", "x") == "no blocked tasks of model x\n"
    assert "did you mean pending?" in call("queue", "list", "pendin", code=2)
    assert "did you mean processing?" in call("queue", "list", "running", code=2)
    assert "'x@y' is no lane" in call("queue", "list", "--lane", "x@y", code=2)


def test_queue_show(world):
    assert json.loads(call("queue", "show", "dead1", "--json"))["error"]["type"] == "exit_code"
    assert "task dead1: failed" in call("queue", "show", "dead1")
    assert "there is no task nope" in call("queue", "show", "nope", code=2)


def test_what_is_nearly_a_task_comes_with_what_was_meant(world):
    for words in (("queue", "show"), ("explain",), ("queue", "cancel"), ("logs", "--task")):
        assert "hint: did you mean waiting1 or waiting2?" in call(*words, "waiti", code=2), words
    told = call("queue", "show", "prompts-1a2b3c4d", code=2)
    assert "hint: that is a batch: `swarm batch show prompts-1a2b3c4d`" in told
    assert "task dead1: failed" in call("queue", "show", "/q/failed/xa0/dead1.json")
    assert "task dead1: failed" in call("explain", "/q/failed/xa0/dead1.json")


def test_queue_active(world):
    (row,) = json.loads(call("queue", "active", "--json"))["tasks"]
    assert (row["worker"], row["task_id"], row["elapsed_s"], row["progress"], row["stuck"]) == (
        "worker-1",
        "d5de16d7",
        7.0,
        42,
        False,
    )


def test_cancel_and_retry_do_what_they_can_and_tell_the_rest(world):
    assert call("queue", "cancel", "waiting1", "--reason", "wrong") == "waiting1: cancelled\n"
    assert world.queue.documents["waiting1"]["reason"] == "wrong"
    result = CliRunner().invoke(app, ["queue", "cancel", "done1", "nope", "waiting2", "--json"])
    assert result.exit_code == 2
    document = json.loads(result.stdout)
    assert [one["task_id"] for one in document["done"]] == ["waiting2"]
    assert [one["task_id"] for one in document["refused"]] == ["done1", "nope"]
    assert call("queue", "retry", "dead1") == "dead1: back in lane llm@llama3.2:3b\n"


def test_status_running_and_not(world):
    document = json.loads(call("status", "--json"))
    assert document["running"]
    assert document["alarms"] == []
    assert document["throughput"]["tasks_per_s"] == pytest.approx(2.0)
    assert document["throughput"]["tokens_out_per_s"] == pytest.approx(400.0)
    assert document["throughput"]["tokens_in_per_s"] == pytest.approx(20.0)
    assert document["throughput"]["j_per_1k_tokens"] is None, "no energy was told"
    assert document["throughput"]["eta_s"] == pytest.approx(123.5 / 4, rel=0.01), "both cards will work on it"
    world.picture, world.brain = swarm(lanes=(lane(123),)), False
    text = call("status", code=3)
    assert text.splitlines()[0].endswith("not running")
    assert "ALARM nothing is running; 125 tasks waiting" in text.splitlines()[1]


def test_workers_gpus_models(world):
    first, second = json.loads(call("workers", "--json"))["workers"]
    assert (first["name"], first["state"], first["tasks"], second["state"], second["idle_s"]) == (
        "worker-1", "busy", ["d5de16d7"], "idle", 34.0,
    )  # fmt: skip
    cards = json.loads(call("gpus", "--json"))["gpus"]
    assert [(c["index"], c["worker"], c["model"]) for c in cards] == [
        (0, "worker-1", "llama3.2:3b"),
        (1, "worker-2", "llama3.2:3b"),
    ]
    idle, model = json.loads(call("models", "--json"))["models"]
    assert (idle["model"], idle["loaded_on"], idle["disk_mib"]) == ("idle:7b", [], 2048)
    assert model["installed_on"] == ["worker-1"]
    assert (model["loaded_on"], model["waiting"], model["task_s"], model["load_s"]) == (
        ["worker-1", "worker-2"],
        123,
        0.5,
        4.0,
    )
    assert model["tokens_per_s"] == pytest.approx(400.0)
    world.picture = swarm()
    assert "no GPU found" in call("gpus")
    assert "no workers are registered" in call("workers")


def test_explain(world):
    document = json.loads(call("explain", "waiting1", "--json"))
    assert (document["kind"], document["state"]) == ("task", "pending")
    assert document["reasons"]
    assert "task done1: completed" in call("explain", "done1")
    assert call("explain", "worker-2").startswith("worker worker-2: idle\n  - ")
    assert call("explain", "llama3.2:3b").startswith("model llama3.2:3b: loaded on 2\n  - 123 tasks wait for llama3.2:3b")
    assert "try: swarm models pull other:1b" in call("explain", "other:1b")
    assert "the nearest name is llama3.2:3b.\n    try: swarm explain llama3.2:3b" in call("explain", "lama3.2:3b")
    assert "did you mean worker-1?" in call("explain", "worker1", code=2)
    assert "there is no task or worker zzz" in call("explain", "zzz", code=2)


@pytest.mark.parametrize(
    "command",
    [("status",), ("workers",), ("models",), ("queue", "stats"), ("queue", "list"), ("explain", "x"), ("logs",), ("down",)],
)
def test_without_a_queue_the_answer_is_3_and_what_to_do(command, tmp_path):
    text = call(*command, "--root", str(tmp_path / "nowhere"), code=3)
    assert str(tmp_path / "nowhere") in text
    assert "swarm up" in text


def test_root_and_config_are_taken_after_every_command(world, tmp_path):
    (tmp_path / "c.toml").write_text("[queue]\nroot = 'other'\n")
    (tmp_path / "other").mkdir()
    assert json.loads(call("status", "--config", "c.toml", "--json"))["root"] == str(tmp_path / "other")
    assert json.loads(call("status", "--config", "c.toml", "--root", "queue", "--json"))["root"] == str(tmp_path / "queue")
    (tmp_path / "c.toml").write_text("[quue]\n")
    text = call("status", "--config", "c.toml", code=2)
    assert "error: c.toml, line 1: unknown section 'quue', did you mean 'queue'?" in text


def test_config_show_check_schema(root, monkeypatch):
    monkeypatch.setenv("SWARM_LLM__SLOTS", "4")
    monkeypatch.setenv("SWARM_MODELS", '{"llama3.2:3b": {"options": {"num_ctx": 8192}}}')
    text = call("config", "show")
    assert "slots = 4  # from $SWARM_LLM__SLOTS" in text
    Path("shown.toml").write_text(text)
    again = json.loads(call("config", "show", "--config", "shown.toml", "--json"))
    assert again["settings"] == json.loads(call("config", "show", "--json"))["settings"]
    assert json.loads(call("config", "check", "--json"))["ok"]
    assert "all well (2 keys set)" in call("config", "check")
    assert json.loads(call("config", "schema"))["$defs"]["LlmSettings"]["properties"]["slots_max"]["minimum"] == 1
    monkeypatch.setenv("SWARM_LLM__SLOTS", "0")
    assert "$SWARM_LLM__SLOTS" in call("config", "check", code=2)


def test_the_schema_file_is_up_to_date():
    assert (REPOSITORY / "config/swarm.schema.json").read_text() == schema_text(), (
        "swarm config schema > config/swarm.schema.json"
    )


def test_submit_wants_exactly_one_source(root):
    assert "exactly one of IN, --prompt and --task" in call("submit", code=2)
    assert "exactly one" in call("submit", "a.jsonl", "--prompt", "x", code=2)


def test_run_hands_on_what_was_asked_and_ends_as_told(root, monkeypatch):
    asked = []

    def run(loaded, request, show):
        asked.append(request)
        return Outcome(exit_code=1, document={"failed": 1}, lines=("1 failed",))

    monkeypatch.setattr(pipeline, "run", run)
    result = CliRunner().invoke(
        app, ["run", "in.jsonl", "-o", "out.jsonl", "--prompt-field", "question", "--simulate", "4", "--json"]
    )
    assert result.exit_code == 1
    assert json.loads(result.stdout) == {"failed": 1}
    assert (asked[0].source, asked[0].output, asked[0].prompt_field, asked[0].simulate) == (
        "in.jsonl",
        Path("out.jsonl"),
        "question",
        4,
    )


@pytest.mark.parametrize(
    ("raised", "code", "said"),
    [
        (KeyboardInterrupt(), 130, "interrupted"),
        (PermissionError(13, "Permission denied", "/etc/shadow"), 2, "error: /etc/shadow: Permission denied"),
        (OSError(28, "No space left on device", "/q"), 2, "make room"),
    ],
)
def test_how_commands_end(root, monkeypatch, raised, code, said):
    def fail(root, durability):
        raise raised

    monkeypatch.setattr("swarm.queue.file_queue.FileQueue", fail)
    assert said in call("status", code=code)


def test_whether_a_brain_lives_is_told_by_its_lock(root):
    from swarm.config.settings import QueueSettings, Settings
    from swarm.queue.coordination import ProcessLock
    from swarm.queue.layout import Layout
    from swarm.runtime.open import lives

    settings = Settings(queue=QueueSettings(root=str(root)))
    assert not lives(settings, "brain")
    (root / "workers").mkdir()
    lock = ProcessLock(Layout(str(root)), "brain")
    assert lock.try_acquire()
    assert lives(settings, "brain")
    lock.release()
    assert not lives(settings, "brain")


def test_usage_mistakes_end_with_2(root):
    assert "No such command" in call("statsu", code=2)
    assert "'--priority': must be less than or equal to 9" in call("submit", "x", "--priority", "12", code=2)
    assert "'--sort': 'long' is not one of" in call("submit", "x", "--sort", "long", code=2)
    assert "hint: name it by its kind: --worker worker-1" in call("queue", "pause", "worker-1", code=2)
    assert "--simulate" in call("up", "--simulate", "0", code=2)
    assert "Missing argument" in call("explain", code=2)


def every_command(group=None, path=()):
    from typer.main import get_command

    group = group or get_command(app)
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from every_command(command, (*path, name))
        else:
            yield (*path, name), command


@pytest.mark.parametrize(
    ("path", "command"), list(every_command()), ids=lambda value: " ".join(value) if isinstance(value, tuple) else ""
)
def test_every_help_text_has_an_example_and_every_command_root_and_config(path, command):
    assert "Example" in command.help
    assert f"swarm {' '.join(path)}" in command.help
    if path not in (("config", "schema"), ("sim", "ollama")):
        assert {"root", "config"} <= {parameter.name for parameter in command.params}


def spawn(*argv: str, **more) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "swarm", *argv],
        capture_output=True,
        text=True,
        check=False,
        cwd=REPOSITORY,
        timeout=60,
        **more,
    )


def test_help_and_version_as_a_process():
    done = spawn("--help")
    assert done.returncode == 0
    assert "swarm run prompts.jsonl -o out.jsonl" in done.stdout
    assert spawn("--version").stdout.startswith("swarm ")
    assert spawn("nonsense").returncode == 2


def test_a_pipe_that_is_closed_already_is_no_failure():
    read_end, write_end = os.pipe()
    os.close(read_end)
    command = [sys.executable, "-m", "swarm", "config", "schema"]
    done = subprocess.run(command, stdout=write_end, stderr=subprocess.PIPE, check=False, cwd=REPOSITORY)
    os.close(write_end)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_reader_that_closes_early_is_no_failure(tmp_path):
    logs = tmp_path / "logs"
    logs.mkdir()
    (logs / "a.log").write_text("x" * 100 + "\n" + "line\n" * 200_000)
    command = f"{sys.executable} -m swarm logs --since 9999w --root {tmp_path} | head -1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False, cwd=REPOSITORY)
    assert done.stdout.splitlines()[-1] == "0"
    assert done.stderr == ""
