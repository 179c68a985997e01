"""The batch file of OpenAI's own documentation goes in, and what comes out has the documented shape."""

import json
import shutil
from pathlib import Path

import pytest

from tests.helpers.cli import user

EXAMPLE = Path(__file__).parents[1] / "data/inputs/openai-docs.jsonl"
MODEL = "llama3.2:3b"
LINE = {"id", "custom_id", "response", "error"}
BODY = {"id", "object", "created", "model", "choices", "usage", "system_fingerprint", "simulated"}


@pytest.fixture(scope="module")
def lines(tmp_path_factory):
    with user(tmp_path_factory.mktemp("openai")) as person:
        shutil.copy(EXAMPLE, person.folder / "batchinput.jsonl")
        person.ok("run", "batchinput.jsonl", "-o", "out.jsonl", "--model", MODEL, "--simulate", "1")
        assert not (person.folder / "out.errors.jsonl").exists()
        return [json.loads(line) for line in (person.folder / "out.jsonl").read_text().splitlines()]


def test_each_line_has_exactly_the_documented_shape(lines):
    assert [line["custom_id"] for line in lines] == ["request-1", "request-2"]
    assert len({line["id"] for line in lines}) == 2
    for line in lines:
        assert line.keys() == LINE
        assert line["id"].startswith("batch_req_")
        assert line["error"] is None
        response = line["response"]
        assert response.keys() == {"status_code", "request_id", "body"}
        assert response["status_code"] == 200
        assert response["request_id"].startswith("req_")


def test_each_body_is_a_chat_completion(lines):
    for line in lines:
        body = line["response"]["body"]
        assert body.keys() == BODY, "nothing beside the documented fields but the mark of a simulation"
        assert body["object"] == "chat.completion"
        assert body["id"].startswith("chatcmpl-")
        assert isinstance(body["created"], int)
        assert body["model"] == MODEL
        (choice,) = body["choices"]
        assert choice.keys() == {"index", "message", "logprobs", "finish_reason"}
        assert (choice["index"], choice["logprobs"], choice["finish_reason"]) == (0, None, "stop")
        assert choice["message"].keys() == {"role", "content", "refusal"}
        assert (choice["message"]["role"], choice["message"]["refusal"]) == ("assistant", None)
        assert choice["message"]["content"]
        usage = body["usage"]
        assert usage.keys() == {"prompt_tokens", "completion_tokens", "total_tokens"}
        assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"] > 0


def test_the_bodies_parse_by_the_official_types(lines):
    pytest.importorskip("openai", reason="the openai package is not installed")
    from openai.types.chat import ChatCompletion

    for line in lines:
        ChatCompletion.model_validate(line["response"]["body"], strict=True)
