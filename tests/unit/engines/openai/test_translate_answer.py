"""Answers in OpenAI's form to Ollama's final object: what servers send, and anything else."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.core.faults import TaskFault
from swarm.engines.ollama.replies import answer
from swarm.engines.openai.translate_answer import native_answer

USAGE = {"prompt_tokens": 12, "completion_tokens": 5, "total_tokens": 17}
CHAT = {"model": "m:1b", "messages": [{"role": "user", "content": "hi"}]}
LLAMA_SERVER = {
    "choices": [{"finish_reason": "stop", "index": 0, "message": {"role": "assistant", "content": "Hello"}}],
    "created": 1764400000,
    "model": "/models/m.gguf",
    "object": "chat.completion",
    "usage": USAGE,
    "timings": {
        "cache_n": 9,
        "prompt_n": 3,
        "prompt_ms": 1.5,
        "prompt_per_second": 2000.0,
        "predicted_n": 5,
        "predicted_ms": 20,
    },
}
VLLM = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1764400000,
    "model": "org/M",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": None, "refusal": None, "reasoning": "hm", "tool_calls": []},
            "logprobs": None,
            "finish_reason": "length",
            "stop_reason": None,
        }
    ],
    "usage": USAGE | {"prompt_tokens_details": {"cached_tokens": 8}},
    "prompt_logprobs": None,
}


def test_an_answer_of_llama_server() -> None:
    assert native_answer("/api/chat", CHAT, LLAMA_SERVER) == {
        "model": "m:1b",
        "created_at": "2025-11-29T07:06:40+00:00",
        "done": True,
        "done_reason": "stop",
        "message": {"role": "assistant", "content": "Hello"},
        "prompt_eval_count": 12,
        "eval_count": 5,
        "prompt_eval_duration": 1_500_000,
        "eval_duration": 20_000_000,
        "prompt_cached_count": 9,
    }


def test_an_answer_of_vllm() -> None:
    final = native_answer("/api/chat", CHAT, VLLM)
    assert final["message"] == {"role": "assistant", "content": "", "thinking": "hm"}
    assert (final["done_reason"], final["prompt_cached_count"]) == ("length", 8)
    assert "eval_duration" not in final


@pytest.mark.parametrize("usage", [None, {}, {"total_tokens": 3}])
def test_tokens_that_nobody_counted_are_not_zero(usage: dict[str, Any] | None) -> None:
    final = native_answer("/api/chat", CHAT, {**VLLM, "usage": usage})
    assert final["usage_missing"] is True
    assert not final.keys() & {"prompt_eval_count", "eval_count", "prompt_cached_count"}
    assert "usage_missing" not in native_answer("/api/chat", CHAT, VLLM)


def calling(arguments: str, reason: str = "tool_calls") -> dict[str, Any]:
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": arguments}}
    message = {"role": "assistant", "content": None, "tool_calls": [call]}
    return {"choices": [{"message": message, "finish_reason": reason}], "usage": USAGE}


def test_tool_calls_hold_their_arguments_as_an_object() -> None:
    final = native_answer("/api/chat", CHAT, calling('{"x": [1]}'))
    assert final["message"]["tool_calls"] == [{"id": "c1", "function": {"index": 0, "name": "f", "arguments": {"x": [1]}}}]
    assert final["done_reason"] == "stop"


@pytest.mark.parametrize(
    ("reason", "fault", "kind"), [("tool_calls", "transient", "schema_mismatch"), ("length", "deterministic", "cut_short")]
)
@pytest.mark.parametrize("arguments", ['{"x": ', "[1]"])
def test_arguments_that_are_no_object(arguments: str, reason: str, fault: str, kind: str) -> None:
    with pytest.raises(TaskFault, match="f") as caught:
        native_answer("/api/chat", CHAT, calling(arguments, reason))
    assert (caught.value.fault, caught.value.kind) == (fault, kind)


def test_logprobs_of_chats_and_of_both_kinds_of_text_completions() -> None:
    token = {"id": 3, "token": "a", "bytes": [97], "logprob": -0.5}
    content = [{**token, "top_logprobs": [{**token}, {**token, "token": "b"}]}]
    kept = {"token": "a", "bytes": [97], "logprob": -0.5}
    choice = {"message": {"content": "a"}, "logprobs": {"content": content}}
    document = {"choices": [choice]}
    assert native_answer("/api/chat", {"logprobs": True}, document)["logprobs"] == [kept]
    with_top = native_answer("/api/chat", {"logprobs": True, "top_logprobs": 1}, document)["logprobs"]
    assert with_top == [{**kept, "top_logprobs": [kept]}]
    assert "logprobs" not in native_answer("/api/chat", {}, document)
    lists = {"tokens": ["a"], "token_logprobs": [-0.5], "top_logprobs": [{"b": -2.0, "a": -0.5}], "text_offset": [0]}
    final = native_answer(
        "/api/generate", {"logprobs": True, "top_logprobs": 1}, {"choices": [{"text": "a", "logprobs": lists}]}
    )
    assert final["response"] == "a"
    assert final["logprobs"] == [{"token": "a", "logprob": -0.5, "top_logprobs": [{"token": "a", "logprob": -0.5}]}]


def test_vectors_are_put_in_the_order_of_the_texts() -> None:
    data = [{"object": "embedding", "index": 1, "embedding": [0, 1.5]}, {"index": 0, "embedding": [1, 0]}]
    final = native_answer("/api/embed", {"model": "e", "input": ["a", "b"]}, {"data": data, "usage": {"prompt_tokens": 4}})
    assert final == {"model": "e", "embeddings": [[1, 0], [0, 1.5]], "prompt_eval_count": 4}
    for wrong in (data[:1], [data[0], data[0]]):
        with pytest.raises(TaskFault) as caught:
            native_answer("/api/embed", {"input": ["a", "b"]}, {"data": wrong})
        assert caught.value.kind == "garbage"


@pytest.mark.parametrize("reason", ["abort", "error"])
def test_an_answer_that_the_server_broke_off_is_none(reason: str) -> None:
    with pytest.raises(TaskFault) as caught:
        native_answer("/api/chat", CHAT, {"choices": [{"message": {"content": "half"}, "finish_reason": reason}]})
    assert (caught.value.fault, caught.value.kind) == ("transient", "aborted")


LEAVES = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=3)
ANYTHING = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2)
)


@st.composite
def bent(draw: st.DrawFn) -> dict[str, Any]:
    """A real answer, one of whose parts is something else."""
    document = json.loads(json.dumps(draw(st.sampled_from([LLAMA_SERVER, VLLM, calling("{}")]))))
    part: Any = document
    while True:
        key = draw(st.sampled_from(sorted(part) if isinstance(part, dict) else list(range(len(part)))))
        if not isinstance(part[key], dict | list) or not part[key] or draw(st.booleans()):
            part[key] = draw(ANYTHING)
            return document
        part = part[key]


@given(bent(), st.sampled_from(["/api/chat", "/api/generate", "/api/embed"]))
def test_whatever_comes_is_an_answer_in_ollamas_form_or_a_fault(document: dict[str, Any], endpoint: str) -> None:
    try:
        final = native_answer(endpoint, CHAT, document)
    except TaskFault:
        return
    answer(final)
    assert final.get("prompt_cached_count", 0) <= final.get("prompt_eval_count", 0)
