"""What commands say when something is amiss, and when it is not: once, and with the way on."""

import json
import re

import pytest
import typer
from typer.main import get_command
from typer.testing import CliRunner

from swarm.cli.app import COMMANDS, app, folded
from swarm.cli.command_options import RunRequest
from swarm.cli.run.input_options import check_options
from swarm.config.settings import ModelSettings, Settings
from swarm.errors import InputError
from swarm.queue.file_queue import FileQueue
from swarm.views.batches.batch_rows import _price

MODEL = "llama3.2:3b"


@pytest.fixture
def at_home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "queue").mkdir()
    return tmp_path


def swarm(*words):
    return CliRunner().invoke(app, words)


def test_the_same_finding_on_many_lines_is_said_once():
    findings = [f"a:b.jsonl:{n}: model: is missing" for n in (1, 2, 3, 5)] + [
        "a:b.jsonl:6: prompt: is empty",
        "… and 9 more",
    ]
    assert folded(findings) == [
        "a:b.jsonl:1-3: model: is missing",
        "a:b.jsonl:5: model: is missing",
        "a:b.jsonl:6: prompt: is empty",
        "… and 9 more",
    ]


def test_a_forgotten_model_is_one_line_for_the_whole_file(at_home):
    (at_home / "in.jsonl").write_text('{"prompt": "a"}\n' * 3)
    told = swarm("submit", "in.jsonl")
    assert told.exit_code == 2
    assert "in.jsonl:1-3: model: is missing" in told.stderr


def test_options_that_would_fail_each_item_are_refused_before():
    request = RunRequest(source="in.jsonl", model=MODEL, option=("num_ctx=4096",))
    with pytest.raises(InputError, match=r'num_ctx = 4096 would make .* \[models."llama3.2:3b"\]'):
        check_options(Settings(), request)
    configured = Settings(models={MODEL: ModelSettings(options={"num_ctx": 4096})})
    check_options(configured, request)
    with pytest.raises(InputError, match="no such option") as caught:
        check_options(Settings(), RunRequest(source="in.jsonl", option=("numpredict=3",)))
    assert caught.value.hint == "did you mean num_predict?"
    check_options(Settings(), RunRequest(source="in.jsonl", model=MODEL, option=("brand_new=1", "seed=3")))


def test_a_resume_says_what_it_has_ended(at_home):
    FileQueue(str(at_home / "queue"), "fast").prepare()
    assert swarm("queue", "pause", "--model", MODEL).exit_code == 0
    assert swarm("queue", "pause", "--model", "qwen2.5:7b").exit_code == 0
    one = swarm("queue", "resume", "--model", MODEL).stdout
    assert one.startswith(f"resumed: model {MODEL}\nmodel qwen2.5:7b is paused since ")
    assert swarm("queue", "resume", "all").stdout == "resumed: model qwen2.5:7b\n"
    assert swarm("queue", "resume", "all").stdout == "nothing is paused\n"
    assert json.loads(swarm("queue", "resume", "all", "--json").stdout) == {"pauses": []}


def test_a_pause_of_a_model_that_nothing_names_says_so(at_home):
    FileQueue(str(at_home / "queue"), "fast").prepare().enqueue(
        {"task_class": "llm", "model": MODEL, "request": {"messages": [{"role": "user", "content": "x"}]}}
    )
    assert swarm("queue", "pause", "--model", MODEL).stderr == ""
    told = swarm("queue", "pause", "--model", "lama3.2:3b", "--json")
    assert f"note: no task, worker or setting here names the model lama3.2:3b; did you mean {MODEL}?" in told.stderr
    assert len(json.loads(told.stdout)["pauses"]) == 2


@pytest.mark.parametrize(
    "command", [("queue", "list"), ("queue", "fsck"), ("queue", "pause", "all"), ("feeds",), ("logs",), ("status",)]
)
def test_a_queue_of_another_user_does_not_seem_empty(at_home, monkeypatch, command):
    monkeypatch.setattr("swarm.queue.root.os.access", lambda *_, **__: False)
    told = swarm(*command)
    assert (told.exit_code, told.stdout) == (2, "")
    assert "cannot be read by user" in told.stderr
    assert "sudo -u USER swarm" in told.stderr


@pytest.mark.parametrize("command", ["retry", "cancel"])
def test_a_task_that_is_not_there_comes_with_the_way_on(at_home, command):
    told = swarm("queue", command, "nope", "neither")
    assert told.exit_code == 2
    assert told.stderr.count("hint: `swarm queue list") == 1


@pytest.mark.parametrize("command", [("run", "in.jsonl", "-o", "out.jsonl", "--simulate", "1"), ("up", "--simulate", "1")])
def test_a_root_that_is_a_file_comes_with_the_way_on(at_home, command):
    (at_home / "in.jsonl").write_text(f'{{"prompt": "a", "model": "{MODEL}"}}\n')
    (at_home / "file").touch()
    told = swarm(*command, "--root", "file")
    assert told.exit_code == 2
    assert "choose another --root" in told.stderr


def test_a_level_is_named_as_it_was_written(at_home):
    (at_home / "queue" / "logs").mkdir()
    (at_home / "queue" / "logs" / "brain.log").touch()
    assert "level 'foo': there is no such level" in swarm("logs", "--level", "foo").stderr


def test_a_batch_from_standard_input_says_so_and_names_no_file_that_is_gone(at_home):
    told = CliRunner().invoke(app, ["submit", "-", "--model", MODEL], input='{"prompt": "a"}\n')
    assert told.exit_code == 0, told.output
    assert [batch["source"] for batch in json.loads(swarm("batches", "--json").stdout)["batches"]] == ["<stdin>"]


def submitted(path):
    """A batch of one line in OpenAI's format."""
    body = {"messages": [{"role": "user", "content": "x"}]}
    path.write_text(json.dumps({"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": body}))
    return json.loads(swarm("submit", path.name, "--model", MODEL, "--json").stdout)["batch_id"]


def test_an_option_that_changes_nothing_about_known_items_is_named(at_home):
    (at_home / "in.jsonl").write_text('{"prompt": "a"}\n{"prompt": "b", "timeout_s": 7}\n')
    again = ("submit", "in.jsonl", "--model", MODEL, "--timeout", "9", "--delay")
    assert "keep theirs" not in swarm(*again, "1s").stderr
    assert "keep theirs" not in swarm(*again, "2s").stderr, "the same again, only later"
    told = swarm("submit", "in.jsonl", "--model", MODEL, "--timeout", "60", "--priority", "7").stderr
    assert "note: --priority, --timeout: items submitted before keep theirs" in told


def test_a_task_in_the_place_of_a_batch_is_told_from_one(at_home):
    task = FileQueue(str(at_home / "queue"), "fast").prepare().enqueue({"task_class": "script", "command": ["x"]})
    assert f"hint: that is a task: `swarm queue show {task}`" in swarm("results", task, "-o", "out.jsonl").stderr


def test_tasks_that_nobody_works_on_are_said_to_wait_and_where(at_home):
    (at_home / "in.jsonl").write_text('{"prompt": "a"}\n')
    for what in ("in.jsonl", "--prompt=a"):
        told = swarm("submit", what, "--model", MODEL, "--json")
        assert f"note: no swarm is running on {at_home}/queue; the tasks wait for `swarm up`" in told.stderr
        assert json.loads(told.stdout)
    waited = swarm("submit", "in.jsonl", "--model", MODEL, "--wait")
    (batch,) = json.loads(swarm("batches", "--json").stdout)["batches"]
    assert waited.exit_code == 3
    assert f"error: batch {batch['batch_id']}: 0 tasks accepted, 1 known already, but no swarm is" in waited.stderr
    swarm("batch", "cancel", batch["batch_id"])
    assert swarm("submit", "in.jsonl", "--model", MODEL, "--wait").exit_code == 1, "nothing is left to wait for"


@pytest.mark.parametrize(
    ("command", "output"),
    [
        ("run", ("-o", "x.jsonl")),
        ("run", ("-o", "o.jsonl", "--errors", "x.errors.jsonl")),
        ("export", ("-o", "x.jsonl")),
        ("export", ("-o", "o.jsonl", "--errors", "x.errors.jsonl")),
        ("results", ("-o", "x.jsonl")),
        ("results", ("-o", "x.errors.jsonl")),
    ],
)
def test_no_output_takes_the_place_of_the_input(at_home, command, output):
    source = at_home / "x.errors.jsonl"
    batch = submitted(source)
    before = source.read_text()
    of = {"run": ("run", source.name, "--model", MODEL), "export": ("batch", "export", batch), "results": ("results", batch)}
    told = swarm(*of[command], *output)
    assert (told.exit_code, "x.errors.jsonl: is the input itself" in told.stderr) == (2, True)
    assert source.read_text() == before


def test_an_export_takes_errors_only_where_it_writes_any(at_home):
    batch = submitted(at_home / "in.jsonl")
    assert "no directory" in swarm("batch", "export", batch, "-o", "o.jsonl", "--errors", "none/e.jsonl").stderr
    assert "--errors belongs to OpenAI" in swarm("batch", "export", batch, "-o", "o.csv", "--errors", "e.jsonl").stderr
    assert swarm("batch", "export", batch, "-o", "o.jsonl", "--errors", "e.jsonl").exit_code == 0
    assert "unfinished" in (at_home / "e.jsonl").read_text()


def _helps(command, words=()):
    yield " ".join(words), command.get_help(typer.Context(command, info_name="swarm", terminal_width=80))
    for name, sub in getattr(command, "commands", {}).items():
        yield from _helps(sub, (*words, name))


def test_every_help_has_an_example_and_no_list_of_commands_is_cut_off():
    for words, text in _helps(get_command(app)):
        if words.startswith("sim"):  # hands on to a program with a help of its own
            continue
        assert re.search(r"^ +swarm ", text, re.MULTILINE) or "$ swarm" in text, words
        listed = text.partition("Commands:")[2] or text.partition("Batches:")[2]
        assert "..." not in listed, (words, listed)


@pytest.mark.parametrize(
    ("command", "usage"),
    [
        (("queue", "cancel"), "[OPTIONS] TASK..."),
        (("queue", "list"), "[OPTIONS] [STATE]"),
        (("run",), "[OPTIONS] IN"),
        (("queue",), "[OPTIONS] COMMAND [ARGS]..."),
    ],
)
def test_a_usage_line_has_one_pair_of_brackets(command, usage):
    assert swarm(*command, "--help").stdout.splitlines()[0].endswith(f"{command[-1]} {usage}")


def test_the_help_lists_every_command_below_a_heading():
    listed = get_command(app).get_help(typer.Context(get_command(app))).partition("\nBatches:\n")[2]
    assert re.findall(r"^  ([a-z]+) ", listed, re.MULTILINE) == list(COMMANDS)


@pytest.mark.parametrize(("cost", "words"), [(0.0, "0.00"), (0.000071, "0.000071"), (0.2, "0.2"), (1234.5, "1,234.50")])
def test_a_price_is_no_power_of_ten(cost, words):
    assert _price(cost) == words
