"""Requests in Ollama's form to OpenAI's: tables of fields, what is refused, and batch rows that come back as they were."""

from __future__ import annotations

import base64
import json
from itertools import chain
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat.completion_create_params import CompletionCreateParamsNonStreaming

from swarm.core.faults import TaskFault
from swarm.core.models.engines import SET_BY_US, EngineKind, unsupported
from swarm.engines.openai.translate_request import openai_request
from swarm.formats.tasks.openai_batch import CHAT, COMPLETIONS, EMBEDDINGS, map_body

USER = [{"role": "user", "content": "hi"}]
PNG = base64.b64encode(b"\x89PNG....").decode()
JPEG = base64.b64encode(b"\xff\xd8\xff....").decode()
WEBP = base64.b64encode(b"RIFF....WEBP....").decode()
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}
TOOL = {"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}}
ENGINES: tuple[EngineKind, ...] = ("llama-server", "openai")


def chat(kind: EngineKind = "openai", **fields: Any) -> dict[str, Any]:
    translated = openai_request(kind, "/api/chat", {"model": "m", "messages": USER, **fields})
    assert translated.path == CHAT
    body = dict(translated.body)
    assert body.pop("model") == "m"
    return body


def refused(kind: EngineKind, endpoint: str, request: dict[str, Any]) -> str:
    with pytest.raises(TaskFault) as caught:
        openai_request(kind, endpoint, {"model": "m", **request})
    assert (caught.value.fault, caught.value.kind) == ("deterministic", "bad_request")
    return caught.value.message


@pytest.mark.parametrize("kind", ENGINES)
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"num_predict": 9}, {"max_tokens": 9}),
        ({"num_predict": -1}, {}),
        ({"top_k": 40}, {"top_k": 40}),
        ({"temperature": 0, "top_p": 0.5, "min_p": 0.1}, {"temperature": 0, "top_p": 0.5, "min_p": 0.1}),
        ({"seed": 7, "stop": ["x"]}, {"seed": 7, "stop": ["x"]}),
        ({"presence_penalty": 1, "frequency_penalty": -1}, {"presence_penalty": 1, "frequency_penalty": -1}),
        ({"num_ctx": 4096, "num_gpu": 99, "use_mmap": True}, {}),
        ({"temperature": None}, {}),
        ({"min_tokens": 3}, {"min_tokens": 3}),
    ],
)
def test_options(kind: EngineKind, options: dict[str, Any], expected: dict[str, Any]) -> None:
    assert chat(kind, options=options) == {"messages": USER, **expected}


@pytest.mark.parametrize(
    ("kind", "options", "expected"),
    [
        ("llama-server", {"repeat_penalty": 1.1}, {"repeat_penalty": 1.1}),
        ("llama-server", {"top_k": 0}, {"top_k": 0}),
        ("openai", {"top_k": 0}, {"top_k": -1}),
        ("openai", {"repeat_penalty": 1.1}, {"repetition_penalty": 1.1, "repeat_penalty": 1.1}),
        (
            "llama-server",
            {"num_keep": 4, "repeat_last_n": 64, "typical_p": 0.9},
            {"n_keep": 4, "repeat_last_n": 64, "typical_p": 0.9},
        ),
    ],
)
def test_options_that_servers_call_differently(kind: EngineKind, options: dict[str, Any], expected: dict[str, Any]) -> None:
    assert chat(kind, options=options) == {"messages": USER, **expected}


@pytest.mark.parametrize(
    ("kind", "fields", "expected"),
    [
        ("openai", {"format": "json"}, {"response_format": {"type": "json_object"}}),
        (
            "llama-server",
            {"format": SCHEMA},
            {"response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA}}},
        ),
        ("openai", {"format": ""}, {}),
        ("openai", {"tools": [TOOL]}, {"tools": [TOOL]}),
        ("openai", {"think": None}, {}),
        ("openai", {"think": True}, {"chat_template_kwargs": {"enable_thinking": True, "thinking": True}}),
        ("openai", {"think": False}, {"chat_template_kwargs": {"enable_thinking": False, "thinking": False}}),
        (
            "openai",
            {"think": "low"},
            {"chat_template_kwargs": {"enable_thinking": True, "thinking": True}, "reasoning_effort": "low"},
        ),
        (
            "llama-server",
            {"think": "high"},
            {"chat_template_kwargs": {"enable_thinking": True, "thinking": True, "reasoning_effort": "high"}},
        ),
        ("openai", {"logprobs": True, "top_logprobs": 0}, {"logprobs": True, "top_logprobs": 0}),
        ("llama-server", {"logprobs": True}, {"logprobs": True, "top_logprobs": 1}),
        ("openai", {"logprobs": False}, {}),
        ("openai", {"truncate": False, "keep_alive": -1, "stream": True, "shift": False}, {}),
        ("openai", {"truncate": True}, {"truncate_prompt_tokens": -1}),
    ],
)
def test_chat_fields(kind: EngineKind, fields: dict[str, Any], expected: dict[str, Any]) -> None:
    assert chat(kind, **fields) == {"messages": USER, **expected}


def test_images_are_data_parts_with_their_type() -> None:
    body = chat(messages=[{"role": "user", "content": "what?", "images": [PNG, JPEG, WEBP]}])
    assert body["messages"][0]["content"] == [
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}},
        {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{JPEG}"}},
        {"type": "image_url", "image_url": {"url": f"data:image/webp;base64,{WEBP}"}},
        {"type": "text", "text": "what?"},
    ]


def test_tool_calls_get_ids_and_their_answers_are_tied_to_them() -> None:
    def call(name: str, **more: Any) -> dict[str, Any]:
        return {**more, "function": {"name": name, "arguments": {"x": 1}}}

    messages = [
        {"role": "assistant", "content": "", "thinking": "hm", "tool_calls": [call("f"), call("g", id="own"), call("f")]},
        {"role": "tool", "content": "1", "tool_name": "g"},
        {"role": "tool", "content": "2", "tool_name": "f"},
        {"role": "tool", "content": "3"},
    ]
    said, *answers = chat(messages=messages)["messages"]
    assert said["reasoning_content"] == "hm"
    assert [one["id"] for one in said["tool_calls"]] == ["call_0", "own", "call_2"]
    assert said["tool_calls"][0]["function"] == {"name": "f", "arguments": '{"x":1}'}
    assert [one["tool_call_id"] for one in answers] == ["own", "call_0", "call_2"]


@pytest.mark.parametrize("kind", ENGINES)
def test_a_prompt_goes_through_the_chat_template_unless_it_is_raw(kind: EngineKind) -> None:
    templated = openai_request(kind, "/api/generate", {"model": "m", "prompt": "p", "system": "s", "images": [PNG]})
    assert templated.path == CHAT
    assert [one["role"] for one in templated.body["messages"]] == ["system", "user"]
    assert templated.body["messages"][1]["content"][1] == {"type": "text", "text": "p"}
    raw = openai_request(
        kind, "/api/generate", {"model": "m", "prompt": "p", "raw": True, "logprobs": True, "top_logprobs": 3}
    )
    assert (raw.path, raw.body) == (COMPLETIONS, {"model": "m", "prompt": "p", "logprobs": 3})


def test_a_schema_for_a_raw_prompt_goes_where_the_server_reads_it() -> None:
    request = {"model": "m", "prompt": "p", "raw": True, "format": SCHEMA}
    assert openai_request("llama-server", "/api/generate", request).body["json_schema"] == SCHEMA
    wanted = openai_request("openai", "/api/generate", request).body["response_format"]
    assert wanted["json_schema"]["schema"] == SCHEMA


def test_embeddings() -> None:
    request = {"model": "m", "input": ["a", "b"], "dimensions": 8, "truncate": False, "options": {"num_ctx": 512}}
    translated = openai_request("openai", "/api/embed", request)
    assert translated.path == EMBEDDINGS
    assert translated.body == {"model": "m", "input": ["a", "b"], "encoding_format": "float", "dimensions": 8}


@pytest.mark.parametrize(
    ("kind", "endpoint", "request_", "field"),
    [
        ("llama-server", "/api/generate", {"prompt": "p", "suffix": "s"}, "suffix"),
        ("llama-server", "/api/embed", {"input": "a", "dimensions": 8}, "dimensions"),
        ("llama-server", "/api/chat", {"messages": USER, "truncate": True}, "truncate"),
        ("openai", "/api/chat", {"messages": USER, "shift": True}, "shift"),
        ("openai", "/api/generate", {"prompt": "p", "template": "{{ .Prompt }}"}, "template"),
        ("openai", "/api/generate", {"prompt": "p", "context": [1, 2]}, "context"),
        ("openai", "/api/generate", {"prompt": "p", "raw": True, "system": "s"}, "system"),
        ("openai", "/api/generate", {"prompt": "p", "suffix": "s", "images": [PNG]}, "images"),
        ("openai", "/api/chat", {"messages": USER, "guided_choice": ["a"]}, "guided_choice"),
        ("openai", "/api/chat", {"messages": USER, "options": {"typical_p": 0.9}}, "options.typical_p"),
        ("llama-server", "/api/chat", {"messages": USER, "options": {"n": 4}}, "options.n"),
    ],
)
def test_what_an_engine_cannot_do_is_refused_by_name(
    kind: EngineKind, endpoint: str, request_: dict[str, Any], field: str
) -> None:
    assert [found for found, _ in unsupported(kind, endpoint, request_)] == [field]
    assert f"request.{field}: " in refused(kind, endpoint, request_)
    assert unsupported("ollama", endpoint, request_) == []


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        ({"messages": []}, "messages"),
        ({"messages": ["x"]}, "messages[0]"),
        ({"messages": [{"role": "robot", "content": ""}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": 1}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": "", "audio": "x"}]}, "messages[0].audio"),
        ({"messages": [{"role": "user", "content": "", "images": ["%"]}]}, "messages[0].images"),
        ({"messages": [{"role": "assistant", "tool_calls": [{}]}]}, "messages[0].tool_calls[0].function"),
        ({"messages": USER, "format": "yaml"}, "format"),
    ],
)
def test_what_is_not_in_ollamas_form_is_refused_with_its_path(request_: dict[str, Any], field: str) -> None:
    assert f"request.{field} " in refused("openai", "/api/chat", request_)


# -- there and back ----------------------------------------------------------------------------------------------------

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
NAME = st.from_regex(r"[a-z_]{1,8}", fullmatch=True)
JSON_OBJECT = st.dictionaries(NAME, st.integers(-5, 5) | TEXT | st.lists(st.booleans(), max_size=2), max_size=2)
SAMPLING = {
    "temperature": st.floats(0, 2),
    "top_p": st.floats(0, 1),
    "min_p": st.floats(0, 1),
    "presence_penalty": st.floats(-2, 2),
    "frequency_penalty": st.floats(-2, 2),
    "seed": st.integers(-1, 2**31),
    "top_k": st.integers(-1, 100),
    "max_tokens": st.integers(1, 9999),
    "stop": TEXT | st.lists(TEXT, min_size=1, max_size=4),
    "user": TEXT,
    "n": st.just(1),
}
PART = st.builds(lambda text: {"type": "text", "text": text}, TEXT) | st.sampled_from(
    [{"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}]
)
PLAIN = st.fixed_dictionaries(
    {"role": st.sampled_from(["system", "user", "developer"]), "content": TEXT | st.lists(PART, min_size=1, max_size=3)}
)
CALLING = st.builds(
    lambda content, reasoning, names, arguments: [
        {
            "role": "assistant",
            "content": content,
            **({"reasoning_content": reasoning} if reasoning else {}),
            "tool_calls": [
                {"id": f"id{i}", "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}
                for i, name in enumerate(names)
            ],
        },
        *({"role": "tool", "tool_call_id": f"id{i}", "content": name} for i, name in enumerate(names)),
    ],
    st.none() | TEXT,
    st.none() | TEXT,
    st.lists(NAME, min_size=1, max_size=3),
    JSON_OBJECT,
)
MESSAGES = st.lists(PLAIN.map(lambda one: [one]) | CALLING, min_size=1, max_size=4).map(lambda lists: list(chain(*lists)))
CHAT_ROWS = st.fixed_dictionaries(
    {"model": st.just("m"), "messages": MESSAGES},
    optional={
        **SAMPLING,
        "max_completion_tokens": st.integers(1, 9999),
        "reasoning_effort": st.sampled_from(["none", "minimal", "low", "medium", "high", "xhigh", "max"]),
        "response_format": st.sampled_from([{"type": "text"}, {"type": "json_object"}])
        | JSON_OBJECT.map(lambda schema: {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}),
        "tools": st.just([TOOL]),
        "tool_choice": st.sampled_from(["auto", "none"]),
    },
)
COMPLETION_ROWS = st.fixed_dictionaries(
    {"model": st.just("m"), "prompt": TEXT}, optional={**SAMPLING, "suffix": TEXT, "logprobs": st.integers(0, 5)}
)
EMBEDDING_ROWS = st.fixed_dictionaries(
    {"model": st.just("m"), "input": TEXT | st.lists(TEXT, min_size=1)}, optional={"dimensions": st.integers(1, 512)}
)
EFFORTS = {"minimal": "low", "xhigh": "max"}


def content_meaning(content: Any) -> tuple[str, list[str]]:
    parts = content if isinstance(content, list) else [{"type": "text", "text": content or ""}]
    texts = [part["text"] for part in parts if part["type"] == "text"]
    return "\n".join(texts), [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]


def message_meaning(message: dict[str, Any]) -> dict[str, Any]:
    calls = [
        (call["id"], call["function"]["name"], json.loads(call["function"]["arguments"]))
        for call in message.get("tool_calls", ())
    ]
    return {
        "role": {"developer": "system"}.get(message["role"], message["role"]),
        "content": content_meaning(message["content"]),
        "reasoning": message.get("reasoning_content"),
        "calls": calls,
        "answers": message.get("tool_call_id"),
    }


def meaning(body: dict[str, Any]) -> dict[str, Any]:
    """What a body of OpenAI's form asks for, whichever of several ways it says it in."""
    named = dict(body)
    for harmless in ("user", "n", "encoding_format"):
        named.pop(harmless, None)
    if named.pop("chat_template_kwargs", {}).get("enable_thinking") is False:
        named["reasoning_effort"] = "none"
    if named.pop("tool_choice", "auto") == "none":
        named.pop("tools", None)
    limits = [named.pop(name, None) for name in ("max_completion_tokens", "max_tokens")]
    named["limit"] = next((limit for limit in limits if limit is not None), None)
    if "messages" in named:
        named["messages"] = [message_meaning(message) for message in named["messages"]]
    if "stop" in named:
        named["stop"] = [named["stop"]] if isinstance(named["stop"], str) else named["stop"]
    if "top_k" in named:
        named["top_k"] = max(named["top_k"], 0)
        named["top_k"] = named["top_k"] or -1
    if "reasoning_effort" in named:
        named["reasoning_effort"] = EFFORTS.get(named["reasoning_effort"], named["reasoning_effort"])
    wanted = named.pop("response_format", {"type": "text"})
    named["format"] = (wanted["type"], wanted.get("json_schema", {}).get("schema"))
    return named


def there_and_back(url: str, row: dict[str, Any]) -> dict[str, Any]:
    mapped = map_body(url, row, raw=True)
    translated = openai_request("openai", mapped.endpoint, {**mapped.request, "model": mapped.model})
    assert translated.path == url
    return translated.body


@given(CHAT_ROWS)
def test_a_chat_row_comes_back_in_meaning(row: dict[str, Any]) -> None:
    assert meaning(there_and_back(CHAT, row)) == meaning(row)


@given(COMPLETION_ROWS)
def test_a_completion_row_comes_back_in_meaning(row: dict[str, Any]) -> None:
    assert meaning(there_and_back(COMPLETIONS, row)) == meaning(row)


@given(EMBEDDING_ROWS)
def test_an_embedding_row_comes_back_in_meaning(row: dict[str, Any]) -> None:
    assert meaning(there_and_back(EMBEDDINGS, row)) == meaning(row)


def test_no_option_can_take_the_place_of_a_field() -> None:
    made = openai_request("openai", "/api/chat", {"model": "m", "messages": USER, "tools": [TOOL], "think": True}).body
    assert made.keys() <= SET_BY_US
    assert set(CompletionCreateParamsNonStreaming.__annotations__) & {"messages", "tools", "n"} <= SET_BY_US
