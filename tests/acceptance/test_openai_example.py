"""The batch files of OpenAI's own documentation go in; what comes out has the documented shape and the official types."""

import json
import shutil
from pathlib import Path

import pytest
from openai.types import Completion, CreateEmbeddingResponse
from openai.types.chat import ChatCompletion

from tests.helpers.cli import user

INPUTS = Path(__file__).parents[1] / "data/inputs"
EXAMPLES = {
    "chat": ("openai-docs.jsonl", ChatCompletion),
    "completions": ("openai-docs-completions.jsonl", Completion),
    "embeddings": ("openai-docs-embeddings.jsonl", CreateEmbeddingResponse),
}
MODEL = "llama3.2:3b"
LINE = {"id", "custom_id", "response", "error"}
BODY = {"id", "object", "created", "model", "choices", "usage", "system_fingerprint", "simulated"}


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """Each example through `swarm run`, all by one swarm on a simulated card."""
    with user(tmp_path_factory.mktemp("openai")) as person:
        person.ok("up", "--simulate", "1", "--detach")
        found = {}
        for name, (file, _) in EXAMPLES.items():
            shutil.copy(INPUTS / file, person.folder / "batchinput.jsonl")
            person.ok("run", "batchinput.jsonl", "-o", f"{name}.jsonl", "--model", MODEL)
            assert not (person.folder / f"{name}.errors.jsonl").exists()
            found[name] = [json.loads(line) for line in (person.folder / f"{name}.jsonl").read_text().splitlines()]
        return found


@pytest.mark.parametrize("name", EXAMPLES)
def test_each_line_has_exactly_the_documented_shape(outputs, name):
    lines = outputs[name]
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


@pytest.mark.parametrize("name", EXAMPLES)
def test_each_body_is_what_the_official_package_reads(outputs, name):
    """Strictly: no text where a number belongs, nothing lost on the way through, nothing it does not know."""
    official = EXAMPLES[name][1]
    for line in outputs[name]:
        body = line["response"]["body"]
        read = official.model_validate(body, strict=True)
        assert read.model_dump(mode="json", exclude_unset=True) == body
        assert list(unknown(read)) == ["simulated"]


def unknown(read):
    """Names of all fields, at any depth, that the official types do not have."""
    yield from read.model_extra or ()
    for name in read.model_fields_set - set(read.model_extra or ()):
        value = getattr(read, name)
        for part in value if isinstance(value, list) else [value]:
            if hasattr(part, "model_extra"):
                yield from unknown(part)


def test_each_chat_body_is_a_chat_completion(outputs):
    for line in outputs["chat"]:
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


def test_embeddings_come_one_for_each_text(outputs):
    one, two = (line["response"]["body"] for line in outputs["embeddings"])
    assert [(v["object"], v["index"]) for v in one["data"]] == [("embedding", 0)]
    assert [v["index"] for v in two["data"]] == [0, 1]
    assert one["usage"]["total_tokens"] == one["usage"]["prompt_tokens"] > 0
