"""Ollama's options: wrong ones are refused where they are written, wherever that is, by the same words."""

import json

import pytest

from swarm.config.load import load
from swarm.core.models.model_options import KNOWN_OPTIONS, are_options, near_option, option_problem
from swarm.core.task import TaskState
from swarm.errors import ConfigError, InputError, TaskInvalid
from swarm.formats.input.source import ReadOptions
from swarm.formats.tasks.scan import drafts, validate
from swarm.queue.codec import validate as validate_task
from swarm.queue.file_queue import FileQueue
from swarm.simulator.http import ApiError
from swarm.simulator.ollama.call import load_options
from tests.helpers.cli import in_process as swarm
from tests.helpers.queues import llm

MODEL = "llama3.2:3b"
VALUES = (None, True, 0, -1, 64, 64.0, 1.5, 1e30, float("nan"), 10**400, "", "abc", "64", [], ["a"], [1], {}, {"a": 1})


@pytest.mark.parametrize("name", sorted(KNOWN_OPTIONS))
def test_what_a_server_refuses_is_refused_before(name):
    for value in VALUES:
        try:
            load_options({name: value}, None, 4096)
        except (ApiError, ValueError, OverflowError):
            assert value is None or option_problem(name, value), value


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("numpredict", "num_predict"),
        ("Temperature", "temperature"),
        ("max_tokens", "num_predict"),
        ("temp", "temperature"),
        ("brand_new", None),
    ],
)
def test_a_misspelt_name_is_told_from_a_new_one(name, meant):
    assert near_option(name) == meant


@pytest.mark.parametrize(
    ("value", "meant"),
    [
        ({"num_predict": 3}, True),
        ({"num_pedict": 3}, True),
        ({"max_tokens": 3}, True),
        ({"A": "Rome", "B": "Oslo"}, False),
        (["Rome"], False),
        ("x", False),
    ],
)
def test_choices_of_a_question_are_no_options(value, meant):
    assert are_options(value) is meant


def documents(path, **options):
    wanted = ReadOptions(model=MODEL, **options)
    return [draft.document for draft in drafts(str(path), wanted, validate(str(path), wanted))]


def test_a_column_of_options_goes_into_the_request_and_wins_over_the_command(tmp_path):
    path = tmp_path / "in.jsonl"
    rows = [
        {"prompt": "a", "options": {"num_predict": 3, "stop": ["x"]}},
        {"prompt": "b", "options": {"seed": 1}, "request": {"options": {"top_k": 2}}},
        {"prompt": "c", "options": ["Rome", "Oslo"]},
        {"prompt": "d"},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = documents(path, options={"num_predict": 9})
    assert [d["request"]["options"] for d in found] == [
        {"num_predict": 3, "stop": ["x"]},
        {"num_predict": 9, "seed": 1, "top_k": 2},
        {"num_predict": 9},
        {"num_predict": 9},
    ]
    assert found[2]["metadata"]["input"]["options"] == ["Rome", "Oslo"], "data is echoed"


def test_a_cell_of_options_is_read_as_json(tmp_path):
    path = tmp_path / "in.csv"
    path.write_text('prompt,options\na,"{""num_predict"": 3}"\nb,\nc,"Rome; Oslo"\nd,"{\'A\': 1}"\n')
    assert [d["request"].get("options") for d in documents(path)] == [{"num_predict": 3}, None, None, None]
    path.write_text("prompt,options\na,{'num_predict': 3}\n")
    with pytest.raises(InputError) as refused:
        documents(path)
    assert refused.value.problems[0].startswith(f"{path}:2: options: must be JSON")


BAD = [
    ({"options": {"num_predict": "abc"}}, "options.num_predict: must be a whole number, is the text 'abc'"),
    ({"options": {"num_pedict": 3}}, "options.num_pedict: there is no such option (did you mean 'num_predict'?)"),
    ({"request": {"options": {"stop": "END"}}}, "request.options.stop: must be a list of texts, is the text 'END'"),
    ({"options": {"seed": 1}, "request": {"options": {"seed": 2}}}, "options.seed: is 1, and request.options says 2"),
    ({"options": {"num_ctx": 4096}}, "options: num_ctx = 4096 would make the server load"),
    ({"map": {"over": "a"}}, "request: that of a mapped task must hold {item}"),
]


@pytest.mark.parametrize(("row", "said"), BAD)
@pytest.mark.parametrize("command", ["run", "submit", "feed"])
def test_every_way_in_names_file_line_and_field(at_home, command, row, said):
    (at_home / "in.jsonl").write_text(json.dumps({"prompt": "x"}) + "\n" + json.dumps({"prompt": "y", **row}) + "\n")
    more = ["-o", "out.jsonl"] if command == "run" else []
    code, told = swarm(command, "in.jsonl", *more, "--model", MODEL)
    if command == "feed":  # what can be fed is fed, so that line alone is left out
        assert code == 1
        assert f"line 2: {said}" in told
        return
    assert code == 2
    assert f"in.jsonl:2: {said}" in told
    assert not (at_home / "queue" / "pending").exists()


@pytest.mark.parametrize("command", ["run", "submit", "feed"])
@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("num_predict=abc", "num_predict must be a whole number"),
        ("numpredict=3", "no such option"),
        ("num_ctx=4096", "load"),
    ],
)
def test_an_option_of_the_command_fails_the_command(at_home, command, option, said):
    (at_home / "in.jsonl").write_text('{"prompt": "x"}\n')
    more = ["-o", "out.jsonl"] if command == "run" else []
    code, told = swarm(command, "in.jsonl", *more, "--model", MODEL, "--option", option)
    assert code == 2
    assert said in told
    assert "--option" in told


def test_a_new_option_passes_and_is_said_once(at_home):
    (at_home / "in.jsonl").write_text('{"prompt": "x"}\n{"prompt": "y"}\n')
    code, told = swarm("submit", "in.jsonl", "--model", MODEL, "--option", "brand_new=1", "--option", "stop=END")
    assert code == 0
    assert told.count("not known here: options brand_new") == 1
    queue = FileQueue(str(at_home / "queue"), "fast")
    asked = [queue.read(one.task_id)["request"]["options"] for one in queue.list(TaskState.PENDING)]
    assert asked == [{"brand_new": 1, "stop": ["END"]}] * 2


def test_the_configuration_names_the_line(tmp_path):
    path = tmp_path / "swarm.toml"
    path.write_text(
        '[models."m:1b"]\noptions = { num_ctx = 4096 }\n\n[models."n:1b".options]\nnum_ctx = "4k"\ntempereture = 0\n'
    )
    with pytest.raises(ConfigError) as refused:
        load(path, {}, None)
    assert (
        f"{path}, line 5: models.\"n:1b\".options.num_ctx: must be a whole number, is the text '4k'" in refused.value.message
    )
    assert "tempereture: there is no such option (did you mean 'temperature'?)" in refused.value.message
    assert "m:1b" not in refused.value.message


@pytest.mark.parametrize("options", [{"num_predict": "abc"}, None, "num_predict=3"])
def test_a_task_that_would_fail_of_them_is_none(options):
    with pytest.raises(TaskInvalid, match=r"field `request.options"):
        validate_task({"task_id": "t", **llm(request={"prompt": "x", "options": options})})


def test_what_is_said_beside_a_task_wins_over_what_it_says(at_home):
    own = llm(priority=1, timeout_s=5.0, request={"prompt": "x", "options": {"num_predict": 1, "seed": 7}}, task_id="mine")
    (at_home / "task.json").write_text(json.dumps(own))
    words = ("--model", "qwen2.5:7b", "--priority", "8", "--timeout", "90", "--option", "num_predict=5", "--no-cache")
    code, told = swarm("submit", "--task", "task.json", *words, "--max-attempts", "2", "--endpoint", "generate")
    assert code == 0, told
    found = FileQueue(str(at_home / "queue"), "fast").read("mine")
    assert (found["model"], found["priority"], found["timeout_s"], found["cache"]) == ("qwen2.5:7b", 8, 90.0, False)
    assert (found["max_attempts"], found["endpoint"]) == (2, "/api/generate")
    assert found["request"]["options"] == {"num_predict": 5, "seed": 7}
    assert found["request"]["prompt"] == "x"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--limit", "3"), "--limit: has no meaning with --task"),
        (("--template", "{x}", "--system", "S"), "--template, --system: has no meaning with --task"),
        (("--max-fails", "0"), "--max-fails: has no meaning with --task"),
        (("--dry-run",), "--dry-run: has no meaning with --task"),
        (("--option", "num_predict=abc"), "num_predict must be a whole number"),
    ],
)
def test_what_cannot_be_said_beside_a_task_is_refused_by_name(at_home, words, said):
    (at_home / "task.json").write_text(json.dumps(llm()))
    code, told = swarm("submit", "--task", "task.json", *words)
    assert code == 2
    assert said in told
    assert not (at_home / "queue" / "pending").exists()


@pytest.mark.parametrize("words", [("--model", MODEL), ("--option", "seed=1"), ("--cache",)])
def test_a_program_has_no_model(at_home, words):
    (at_home / "task.json").write_text(json.dumps({"task_class": "cpu", "command": ["true"]}))
    code, told = swarm("submit", "--task", "task.json", *words)
    assert code == 2
    assert "has no meaning with a task of class 'cpu'" in told


@pytest.mark.parametrize("words", [("--limit", "3"), ("--images-dir", "x"), ("--format", "csv")])
def test_a_single_prompt_is_no_file(at_home, words):
    code, told = swarm("submit", "--prompt", "hi", "--model", MODEL, *words)
    assert code == 2
    assert "has no meaning with --prompt" in told
