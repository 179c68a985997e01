"""OpenAI requests to Ollama's and back: tables of fields, and what is refused."""

from __future__ import annotations

import base64
import struct
from typing import Any

import pytest
from openai import types
from openai.types.chat import ChatCompletion

from swarm.formats.input.problems import FieldError
from swarm.formats.output.rows import output_line, response_body
from swarm.formats.tasks.openai_batch import CHAT, COMPLETIONS, EMBEDDINGS, map_body

USER = [{"role": "user", "content": "hi"}]
PNG = base64.b64encode(b"\x89PNG....").decode()
TOOL = {"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}}


@pytest.mark.parametrize(
    ("field", "value", "option", "expected"),
    [
        ("temperature", 0, "temperature", 0),
        ("top_p", 0.5, "top_p", 0.5),
        ("max_tokens", 9, "num_predict", 9),
        ("max_completion_tokens", 8, "num_predict", 8),
        ("stop", "x", "stop", ["x"]),
        ("stop", ["x", "y"], "stop", ["x", "y"]),
        ("seed", -3, "seed", -3),
        ("frequency_penalty", 1.5, "frequency_penalty", 1.5),
        ("presence_penalty", -2, "presence_penalty", -2),
        ("top_k", 40, "top_k", 40),
        ("min_p", 0.1, "min_p", 0.1),
    ],
)
def test_sampling_fields_become_options(field: str, value: Any, option: str, expected: Any) -> None:
    for url, body in ((CHAT, {"messages": USER}), (COMPLETIONS, {"prompt": "hi"})):
        if url == COMPLETIONS and field == "max_completion_tokens":
            continue
        assert map_body(url, {"model": "m", field: value, **body}).request["options"] == {option: expected}


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("response_format", {"type": "text"}, {}),
        ("response_format", {"type": "json_object"}, {"format": "json"}),
        (
            "response_format",
            {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}},
            {"format": {"type": "object"}},
        ),
        ("tools", [TOOL], {"tools": [TOOL]}),
        ("reasoning_effort", "none", {"think": False}),
        ("reasoning_effort", "minimal", {"think": "low"}),
        ("reasoning_effort", "high", {"think": "high"}),
        ("logprobs", True, {"logprobs": True, "top_logprobs": 0}),
        ("n", 1, {}),
        ("stream", False, {}),
        ("logit_bias", {}, {}),
        ("parallel_tool_calls", True, {}),
        ("user", "u", {}),
        ("metadata", {"k": "v"}, {}),
        ("store", True, {}),
        ("service_tier", "auto", {}),
        ("temperature", None, {}),
        ("unheard_of", None, {}),
    ],
)
def test_chat_fields(field: str, value: Any, expected: dict[str, Any]) -> None:
    mapped = map_body(CHAT, {"model": "m", "messages": USER, field: value})
    assert mapped.request == {"messages": USER, **expected}
    assert (mapped.endpoint, mapped.model) == ("/api/chat", "m")


def test_tool_choice_none_leaves_the_tools_out_and_strict_is_dropped() -> None:
    strict = {"type": "function", "function": {**TOOL["function"], "strict": True}}  # type: ignore[dict-item]
    body = {"model": "m", "messages": USER, "tools": [strict]}
    assert map_body(CHAT, {**body, "tool_choice": "none"}).request == {"messages": USER}
    assert map_body(CHAT, {**body, "tool_choice": "auto"}).request["tools"] == [TOOL]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"n": 2}, "body.n"),
        ({"stream": True}, "body.stream"),
        ({"temperature": "hot"}, "body.temperature"),
        ({"temperature": 3}, "body.temperature"),
        ({"temperature": True}, "body.temperature"),
        ({"top_p": -1}, "body.top_p"),
        ({"max_tokens": 0}, "body.max_tokens"),
        ({"max_tokens": 1.5}, "body.max_tokens"),
        ({"seed": "1"}, "body.seed"),
        ({"stop": [1]}, "body.stop"),
        ({"logit_bias": {"50256": -100}}, "body.logit_bias"),
        ({"temprature": 1}, "body.temprature"),
        ({"functions": []}, "body.functions"),
        ({"modalities": ["text", "audio"]}, "body.modalities"),
        ({"response_format": {"type": "xml"}}, "body.response_format.type"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "n"}}},
            "body.response_format.json_schema.schema",
        ),
        ({"tools": [TOOL], "tool_choice": "required"}, "body.tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "f"}}}, "body.tool_choice"),
        ({"tools": [{"type": "code_interpreter"}]}, "body.tools[0].type"),
        ({"tools": [{"type": "function", "function": {}}]}, "body.tools[0].function.name"),
        ({"tools": [TOOL], "parallel_tool_calls": False}, "body.parallel_tool_calls"),
        ({"reasoning_effort": "huge"}, "body.reasoning_effort"),
        ({"top_logprobs": 3}, "body.top_logprobs"),
        ({"logprobs": 1}, "body.logprobs"),
        ({"messages": None}, "body.messages"),
        ({"messages": []}, "body.messages"),
        ({"messages": "hi"}, "body.messages"),
        ({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}, "body.messages[0].content[0]"),
        ({"messages": [{"role": "user", "content": []}]}, "body.messages[0].content"),
        ({"messages": [{"role": "user", "content": "x", "functon": 1}]}, "body.messages[0].functon"),
        ({"messages": [{"role": "assistant", "content": "x", "function_call": {}}]}, "body.messages[0].function_call"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://x/y.png"}}]}]},
            "body.messages[0].content[0].image_url",
        ),
        (
            {
                "messages": [
                    {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,%%"}}]}
                ]
            },
            "body.messages[0].content[0].image_url",
        ),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}]},
            "body.messages[0].tool_calls[0].function.arguments",
        ),
    ],
)
def test_what_would_change_the_answer_is_refused(body: dict[str, Any], field: str) -> None:
    with pytest.raises(FieldError) as caught:
        map_body(CHAT, {"model": "m", "messages": USER, **body})
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("url", "body", "field"),
    [
        ("/v1/responses", {}, "url"),
        (COMPLETIONS, {}, "body.prompt"),
        (COMPLETIONS, {"prompt": ["a", "b"]}, "body.prompt"),
        (COMPLETIONS, {"prompt": [1, 2]}, "body.prompt"),
        (COMPLETIONS, {"prompt": "a", "echo": True}, "body.echo"),
        (COMPLETIONS, {"prompt": "a", "best_of": 3}, "body.best_of"),
        (COMPLETIONS, {"prompt": "a", "messages": []}, "body.messages"),
        (EMBEDDINGS, {}, "body.input"),
        (EMBEDDINGS, {"input": ""}, "body.input"),
        (EMBEDDINGS, {"input": []}, "body.input"),
        (EMBEDDINGS, {"input": [1, 2]}, "body.input[0]"),
        (EMBEDDINGS, {"input": [[1, 2]]}, "body.input[0]"),
        (EMBEDDINGS, {"input": ["a", ""]}, "body.input[1]"),
        (EMBEDDINGS, {"input": "a", "dimensions": 0}, "body.dimensions"),
        (EMBEDDINGS, {"input": "a", "encoding_format": "int8"}, "body.encoding_format"),
        (EMBEDDINGS, {"input": "a", "temperature": 1}, "body.temperature"),
    ],
)
def test_other_endpoints_refuse(url: str, body: dict[str, Any], field: str) -> None:
    with pytest.raises(FieldError) as caught:
        map_body(url, {"model": "m", **body})
    assert caught.value.field == field


def test_conversation_with_parts_images_and_tools() -> None:
    url = f"data:image/png;base64,{PNG}"
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}
    parts = [
        {"type": "text", "text": "a"},
        {"type": "image_url", "image_url": {"url": url, "detail": "low"}},
        {"type": "text", "text": "b"},
    ]
    messages = [
        {"role": "developer", "content": "be brief"},
        {"role": "user", "name": "bob", "content": parts},
        {"role": "assistant", "content": None, "refusal": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "rain"},
    ]
    assert map_body(CHAT, {"model": "m", "messages": messages}).request["messages"] == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "a\nb", "images": [PNG]},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"id": "c1", "function": {"name": "weather", "arguments": {"city": "Oslo"}}}],
        },
        {"role": "tool", "content": "rain", "tool_call_id": "c1", "tool_name": "weather"},
    ]


def test_completions_and_embeddings() -> None:
    mapped = map_body(COMPLETIONS, {"model": "m", "prompt": ["a"], "suffix": "z", "logprobs": 2, "max_tokens": 5})
    assert mapped.endpoint == "/api/generate"
    assert mapped.request == {
        "prompt": "a",
        "suffix": "z",
        "logprobs": True,
        "top_logprobs": 2,
        "options": {"num_predict": 5},
    }
    mapped = map_body(
        EMBEDDINGS, {"model": "m", "input": ["a", "b"], "dimensions": 8, "encoding_format": "base64", "user": "u"}
    )
    assert (mapped.endpoint, mapped.request, mapped.notes) == (
        "/api/embed",
        {"input": ["a", "b"], "dimensions": 8},
        {"encoding_format": "base64"},
    )


def done(result: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "task_id": "t-1",
        "model": "m:1b",
        "status": "completed",
        "completed_at": "2026-02-07T21:05:50.123+01:00",
        "result": result,
        **more,
    }


def document(url: str, **notes: Any) -> dict[str, Any]:
    return {"custom_id": "c", "model": "m:1b", "metadata": {"format": "openai", "url": url, **notes}}


def test_chat_reply() -> None:
    result = {
        "message": {"role": "assistant", "content": "yo", "thinking": "hm"},
        "done_reason": "length",
        "prompt_eval_count": 3,
        "eval_count": 4,
    }
    line, good = output_line(document(CHAT), done(result))
    assert good
    assert line == {
        "id": "batch_req_t-1",
        "custom_id": "c",
        "response": {
            "status_code": 200,
            "request_id": "req_t-1",
            "body": {
                "id": "chatcmpl-t-1",
                "object": "chat.completion",
                "created": 1770494750,
                "model": "m:1b",
                "choices": [
                    {
                        "index": 0,
                        "message": {"role": "assistant", "content": "yo", "refusal": None, "reasoning": "hm"},
                        "logprobs": None,
                        "finish_reason": "length",
                    }
                ],
                "usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7},
                "system_fingerprint": None,
            },
        },
        "error": None,
    }


def test_cached_prompt_tokens_are_told_where_the_server_told_them() -> None:
    usage = {"prompt_tokens": 9, "completion_tokens": 1, "total_tokens": 10, "cached_tokens": 7}
    body = response_body(document(CHAT), done({"message": {"content": "yo"}, "usage": usage}))
    assert body["usage"]["prompt_tokens_details"] == {"cached_tokens": 7}
    assert body["usage"]["total_tokens"] == 10


@pytest.mark.parametrize("url", [CHAT, COMPLETIONS, EMBEDDINGS])
def test_tokens_that_the_server_did_not_count_are_unknown(url: str) -> None:
    answer = {"message": {"content": "yo"}, "usage": None, "usage_missing": True}
    assert response_body(document(url), done(answer))["usage"] is None


def test_tool_call_reply_and_simulated_mark() -> None:
    call = {"function": {"name": "f", "arguments": {"a": 1}}}
    body = response_body(
        document(CHAT), done({"message": {"content": "", "tool_calls": [call]}, "done_reason": "stop"}, simulated=True)
    )
    choice = body["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    assert choice["message"]["tool_calls"] == [
        {"id": "call_t-1_0", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}
    ]
    assert body["simulated"] is True


def test_logprobs_in_both_shapes() -> None:
    tokens = [
        {"token": "é", "logprob": -0.1, "top_logprobs": [{"token": "é", "logprob": -0.1}]},
        {"token": "b", "logprob": -1.0},
    ]
    chat = response_body(document(CHAT), done({"message": {"content": "éb"}, "logprobs": tokens}))["choices"][0]["logprobs"]
    assert chat["content"][0] == {
        "token": "é",
        "logprob": -0.1,
        "bytes": [195, 169],
        "top_logprobs": [{"token": "é", "logprob": -0.1, "bytes": [195, 169]}],
    }
    assert chat["content"][1]["top_logprobs"] == []
    text = response_body(document(COMPLETIONS), done({"response": "éb", "logprobs": tokens}))["choices"][0]
    assert text["text"] == "éb"
    assert text["logprobs"] == {
        "tokens": ["é", "b"],
        "token_logprobs": [-0.1, -1.0],
        "top_logprobs": [{"é": -0.1}, {}],
        "text_offset": [0, 1],
    }


def test_embeddings_reply() -> None:
    result = {"embeddings": [[0.5, -1.0], [1.0, 0.0]], "prompt_eval_count": 5}
    body = response_body(document(EMBEDDINGS), done(result))
    assert body == {
        "object": "list",
        "data": [
            {"object": "embedding", "index": 0, "embedding": [0.5, -1.0]},
            {"object": "embedding", "index": 1, "embedding": [1.0, 0.0]},
        ],
        "model": "m:1b",
        "usage": {"prompt_tokens": 5, "total_tokens": 5},
    }
    packed = response_body(document(EMBEDDINGS, encoding_format="base64"), done(result))["data"][0]["embedding"]
    assert struct.unpack("<2f", base64.b64decode(packed)) == (0.5, -1.0)


@pytest.mark.parametrize(
    ("finished", "code"),
    [
        (None, "unfinished"),
        ({"task_id": "t-1", "status": "failed", "error": {"type": "timeout", "message": "600 s"}}, "timeout"),
        ({"task_id": "t-1", "status": "cancelled"}, "cancelled"),
        ({"task_id": "t-1", "status": "completed", "result": None}, "failed"),
    ],
)
def test_failures_are_error_lines(finished: dict[str, Any] | None, code: str) -> None:
    line, good = output_line(document(CHAT), finished)
    assert not good
    assert line["response"] is None
    assert line["error"]["code"] == code
    assert line["error"]["message"]


def test_bodies_parse_by_the_official_types() -> None:
    tokens = [{"token": "a", "logprob": -0.1, "top_logprobs": [{"token": "a", "logprob": -0.1}]}]
    call = {"function": {"name": "f", "arguments": {"a": 1}}}
    for message in ({"content": "yo", "thinking": "t"}, {"content": "", "tool_calls": [call]}):
        result = {"message": message, "logprobs": tokens}
        ChatCompletion.model_validate(response_body(document(CHAT), done(result, simulated=True)), strict=True)
    types.Completion.model_validate(
        response_body(document(COMPLETIONS), done({"response": "a", "logprobs": tokens})), strict=True
    )
    types.CreateEmbeddingResponse.model_validate(
        response_body(document(EMBEDDINGS), done({"embeddings": [[0.1]]})), strict=True
    )
