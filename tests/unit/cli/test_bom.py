"""Byte order marks: one of UTF-8 means nothing wherever a text is read; one of another encoding is named."""

import json

import pytest

from swarm.config.load import load
from swarm.core.task import TaskState
from swarm.errors import ConfigError
from swarm.queue.file_queue import FileQueue
from tests.helpers.cli import in_process as swarm
from tests.helpers.queues import llm

MODEL = "llama3.2:3b"
INPUTS = {
    "in.jsonl": '{"prompt": "x"}\n',
    "in.csv": "prompt,n\nx,1\n",
    "in.tsv": "prompt\tn\nx\t1\n",
    "in.txt": "x\n",
    "batch.jsonl": json.dumps(
        {
            "custom_id": "a",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {"model": MODEL, "messages": [{"role": "user", "content": "x"}]},
        }
    )
    + "\n",
}


def prompts(home):
    queue = FileQueue(str(home / "queue"), "fast")
    return [queue.read(one.task_id)["request"]["messages"][-1]["content"] for one in queue.list(TaskState.PENDING)]


@pytest.mark.parametrize("command", ["submit", "feed"])
@pytest.mark.parametrize("name", INPUTS)
def test_one_of_utf8_means_nothing(at_home, command, name):
    (at_home / name).write_text(INPUTS[name], encoding="utf-8-sig")
    code, told = swarm(command, name, "--model", MODEL)
    assert code == 0, told
    assert prompts(at_home) == ["x"]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32"])
@pytest.mark.parametrize("command", ["submit", "feed"])
@pytest.mark.parametrize("name", INPUTS)
def test_one_of_another_encoding_is_named(at_home, command, name, encoding):
    (at_home / name).write_text(INPUTS[name], encoding=encoding)
    code, told = swarm(command, name, "--model", MODEL)
    assert code == 2, told
    assert f"{name}:1: the file is {encoding.upper()}, not UTF-8" in told


def test_a_task_of_a_file_with_one(at_home):
    (at_home / "task.json").write_text(json.dumps(llm(task_id="mine")), encoding="utf-8-sig")
    assert swarm("submit", "--task", "task.json")[0] == 0
    (at_home / "task.json").write_text(json.dumps(llm(task_id="other")), encoding="utf-16")
    code, told = swarm("submit", "--task", "task.json")
    assert code == 2
    assert "task.json: begins with a byte order mark of UTF-16; save it as UTF-8" in told


def test_a_configuration_with_one(tmp_path):
    path = tmp_path / "swarm.toml"
    path.write_text("[llm]\nslots = 3\n", encoding="utf-8-sig")
    assert load(path, {}, None).settings.llm.slots == 3
    path.write_text("[llm]\nslots = 3\n", encoding="utf-16")
    with pytest.raises(ConfigError, match=r"swarm.toml: begins with a byte order mark of UTF-16"):
        load(path, {}, None)


def test_a_drop_in_with_one(tmp_path):
    queue = FileQueue(str(tmp_path), "fast").prepare()
    brain = queue.brain_view(lambda *_: None)
    (tmp_path / "pending" / "good.json").write_text(json.dumps(llm()), encoding="utf-8-sig")
    assert "Filed drop-in good" in brain.file_drop_in("good.json")
    assert queue.read("good")["state"] == "pending"
    bad = tmp_path / "pending" / "bad.json"
    bad.write_text(json.dumps(llm()), encoding="utf-16")
    assert "byte order mark of UTF-16" in brain.file_drop_in("bad.json"), "named while it may still be being written"
