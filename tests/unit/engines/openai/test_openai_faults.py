"""What servers with OpenAI's API say when something is wrong, each in its own form."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.engines.openai.openai_faults import fault_of_openai_error, fault_of_openai_status
from swarm.plain_text import one_line

CHAT = "/v1/chat/completions"


def llama_server(code: int, message: str, kind: str = "invalid_request_error") -> str:
    return json.dumps({"error": {"code": code, "message": message, "type": kind}})


def vllm(code: int, message: str, kind: str = "BadRequestError") -> str:
    return json.dumps({"error": {"message": message, "type": kind, "param": None, "code": code}})


def sglang(code: int, message: str) -> str:
    return json.dumps({"object": "error", "message": message, "type": "BadRequestError", "param": None, "code": code})


@pytest.mark.parametrize(
    ("status", "body", "fault", "kind"),
    [
        (400, llama_server(400, "request (9412 tokens) exceeds the available context size (8192 tokens)"),
         "deterministic", "too_long"),
        (500, llama_server(500, "input (518 tokens) is too large to process. increase the physical batch size"),
         "deterministic", "too_long"),
        (500, llama_server(500, "Context size has been exceeded.", "server_error"), "infra", "does_not_fit"),
        (503, llama_server(503, "Loading model", "unavailable_error"), "transient", "busy"),
        (401, llama_server(401, "Invalid API Key", "authentication_error"), "infra", "forbidden"),
        (404, llama_server(404, "File Not Found", "not_found_error"), "infra", "garbage"),
        (501, llama_server(501, "This server does not support embeddings. Start it with `--embeddings`"),
         "deterministic", "bad_request"),
        (500, llama_server(500, "image input is not supported - hint: you may need to provide the mmproj", "server_error"),
         "deterministic", "bad_request"),
        (500, llama_server(500, "the current context does not support logits computation. skipping", "server_error"),
         "deterministic", "bad_request"),
        (500, llama_server(500, "tools param requires --jinja flag", "server_error"), "deterministic", "bad_request"),
        (500, llama_server(500, "Unsupported param: suffix", "server_error"), "deterministic", "bad_request"),
        (500, llama_server(500, "Compute error.", "server_error"), "transient", "server_error"),
        (400, vllm(400, "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens."),
         "deterministic", "too_long"),
        (400, vllm(400, "The decoder prompt (length 5000) is longer than the maximum model length of 4096."),
         "deterministic", "too_long"),
        (404, vllm(404, "The model `x` does not exist.", "NotFoundError"), "deterministic", "model_missing"),
        (400, vllm(400, '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set'),
         "deterministic", "bad_request"),
        (500, vllm(500, "EngineCore encountered an issue. See stack trace (above).", "InternalServerError"),
         "infra", "runner_died"),
        (500, vllm(500, "CUDA out of memory. Tried to allocate 2.00 GiB", "InternalServerError"), "infra", "out_of_memory"),
        (401, '{"error": "Unauthorized"}', "infra", "forbidden"),
        (400, sglang(400, "The input (5000 tokens) is longer than the model's context length (4096 tokens)."),
         "deterministic", "too_long"),
        (400, sglang(400, "Input length (5000 tokens) exceeds the maximum allowed length (4090 tokens)."),
         "deterministic", "too_long"),
        (503, sglang(503, "The request queue is full."), "transient", "busy"),
        (429, '{"error": {"message": "Rate limit reached"}}', "transient", "busy"),
        (422, '{"detail": [{"loc": ["body", "n"], "msg": "value is not valid"}]}', "deterministic", "bad_request"),
        (404, '{"detail": "Not Found"}', "infra", "garbage"),
        (405, '{"detail": "Method Not Allowed"}', "infra", "garbage"),
        (404, "<html>nginx</html>", "infra", "garbage"),
        (400, "", "infra", "garbage"),
        (502, "<html>Bad Gateway</html>", "transient", "busy"),
        (302, "", "infra", "redirected"),
    ],
)  # fmt: skip
def test_statuses(status: int, body: str, fault: str, kind: str) -> None:
    found = fault_of_openai_status(status, body, path=CHAT)
    assert (found.fault, found.kind) == (fault, kind)
    assert found.message.startswith(f"HTTP {status}: ")


def test_messages_say_what_to_try_next() -> None:
    assert "num_ctx" in fault_of_openai_status(400, vllm(400, "maximum context length is 1"), path=CHAT).message
    assert "api_key_env" in fault_of_openai_status(401, "", path=CHAT).message
    assert "OpenAI" in fault_of_openai_status(404, "hello", path=CHAT).message


@pytest.mark.parametrize(
    ("document", "kind"),
    [
        ({"error": {"code": 500, "message": "Context size has been exceeded.", "type": "server_error"}}, "does_not_fit"),
        ({"error": {"object": "error", "message": "CUDA out of memory", "code": 500}}, "out_of_memory"),
        ({"object": "error", "message": "engine is dead", "code": 500}, "runner_died"),
        ({"error": "boom"}, "server_error"),
        ({"error": {"type": "BadRequestError"}}, "server_error"),
        ({"detail": "Not Found"}, "server_error"),
    ],
)
def test_errors_that_come_with_status_200(document: dict[str, object], kind: str) -> None:
    found = fault_of_openai_error(document)
    assert found is not None
    assert found.kind == kind


@pytest.mark.parametrize("document", [{}, {"choices": [], "error": None}, {"data": [], "detail": "x"}, {"object": "list"}])
def test_what_is_no_error(document: dict[str, object]) -> None:
    assert fault_of_openai_error(document) is None


@given(
    st.integers(300, 599), st.text(max_size=40) | st.dictionaries(st.text(max_size=8), st.text(max_size=8)).map(json.dumps)
)
def test_any_status_and_body_has_a_class_and_one_line(status: int, body: str) -> None:
    found = fault_of_openai_status(status, body, path=CHAT)
    assert one_line(found.message) == found.message
    assert found.fault in ("infra", "transient", "deterministic")
