"""Streams of server-sent events: merged, however they are cut, to what the server would have sent in one piece."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.core.faults import TaskFault
from swarm.engines.openai.event_stream import EventReader, StreamedAnswer
from swarm.engines.openai.translate_answer import native_answer

USAGE = {"prompt_tokens": 12, "completion_tokens": 5, "total_tokens": 17}


def chunk(delta: dict[str, Any] | None = None, reason: str | None = None, **more: Any) -> dict[str, Any]:
    return {
        "object": "chat.completion.chunk",
        "choices": [{"index": 0, "delta": delta or {}, "finish_reason": reason}],
        **more,
    }


def call(index: int, **function: str) -> dict[str, Any]:
    given = {"id": function.pop("id")} if "id" in function else {}
    return {"tool_calls": [{"index": index, **given, "type": "function", "function": function}]}


STREAM = [
    chunk({"role": "assistant", "content": None}),
    chunk({"reasoning_content": "h"}),
    chunk({"reasoning_content": "m"}),
    chunk({"content": "Hé"}),
    chunk({"content": "llo"}),
    chunk(call(0, id="c0", name="f", arguments="")),
    chunk(call(1, id="c1", name="g", arguments='{"y":')),
    chunk(call(0, arguments='{"x": 1}')),
    chunk(call(1, arguments="2}")),
    chunk(reason="tool_calls", created=1764400000),
    {"choices": [], "usage": USAGE, "timings": {"cache_n": 4, "prompt_ms": 1.0, "predicted_ms": 2.0}},
]


def sent(events: list[dict[str, Any]], end: str = "data: [DONE]\n\n") -> bytes:
    return ("".join(f"data: {json.dumps(event, ensure_ascii=False)}\n\n" for event in events) + end).encode()


def merged(raw: bytes, *cuts: int, max_bytes: int = 1 << 20) -> tuple[dict[str, Any], EventReader, int]:
    reader = EventReader(max_bytes)
    pieces: list[int] = []
    answer = StreamedAnswer(pieces.append)
    edges = [0, *sorted(cuts), len(raw)]
    for start, end in pairwise(edges):
        for event in reader.feed(raw[start:end]):
            answer.add(event)
    for event in reader.end():
        answer.add(event)
    return native_answer("/api/chat", {"model": "m"}, answer.document), reader, len(pieces)


@given(st.lists(st.integers(0, len(sent(STREAM))), max_size=8))
def test_a_stream_however_it_is_cut(cuts: list[int]) -> None:
    final, reader, pieces = merged(sent(STREAM), *cuts)
    assert final["message"] == {
        "role": "assistant",
        "content": "Héllo",
        "thinking": "hm",
        "tool_calls": [
            {"id": "c0", "function": {"index": 0, "name": "f", "arguments": {"x": 1}}},
            {"id": "c1", "function": {"index": 1, "name": "g", "arguments": {"y": 2}}},
        ],
    }
    assert (final["prompt_eval_count"], final["eval_count"], final["prompt_cached_count"]) == (12, 5, 4)
    assert reader.done
    assert pieces == len(STREAM) - 1


@pytest.mark.parametrize("index", [0, None])
def test_calls_that_are_not_numbered_are_told_apart_by_their_names_and_ids(index: Any) -> None:
    fragments = [
        call(index, id="c0", name="f", arguments=""),
        call(index, id="", arguments='{"x":'),
        call(index, arguments=" 1}"),
        call(index, id="c1", name="g", arguments='{"y":'),
        call(index, id="c1", arguments=" 2}"),
    ]
    made = merged(sent([*map(chunk, fragments), chunk(reason="tool_calls")]))[0]["message"]["tool_calls"]
    assert [(one["id"], one["function"]["name"], one["function"]["arguments"]) for one in made] == [
        ("c0", "f", {"x": 1}),
        ("c1", "g", {"y": 2}),
    ]


def test_a_text_completion_with_its_logprobs() -> None:
    events = [
        {"choices": [{"text": t, "logprobs": {"tokens": [t], "token_logprobs": [-0.5], "top_logprobs": None}}]} for t in "ab"
    ]
    answer = StreamedAnswer()
    for event in [*events, {"choices": [{"text": "", "finish_reason": "stop"}]}]:
        answer.add(event)
    final = native_answer("/api/generate", {"logprobs": True}, answer.document)
    assert final["response"] == "ab"
    assert [token["token"] for token in final["logprobs"]] == ["a", "b"]


def test_comments_other_fields_and_windows_line_ends_are_passed_over() -> None:
    raw = b": keep-alive\r\nevent: x\r\nid: 1\r\nretry: 5\r\n\r\n" + sent(STREAM).replace(b"\n", b"\r\n")
    assert merged(raw)[0]["message"]["content"] == "Héllo"


@pytest.mark.parametrize("end", ["", "data: [DONE]", "data: [DONE]\n\ndata: late"])
def test_the_end_is_the_finish_reason_not_the_mark(end: str) -> None:
    assert merged(sent(STREAM, end))[0]["done_reason"] == "stop"


@pytest.mark.parametrize(
    ("raw", "fault", "kind"),
    [
        (sent(STREAM[:5], ""), "transient", "half_stream"),
        (sent(STREAM[:5]), "transient", "half_stream"),
        (sent(STREAM[:5], 'data: {"choi'), "transient", "half_stream"),
        (b"", "transient", "half_stream"),
        (sent(STREAM[:5], 'data: {"error": {"message": "Context size has been exceeded."}}\n\n'), "infra", "does_not_fit"),
        (sent(STREAM[:5], 'error: {"code": 500, "message": "CUDA out of memory"}\n\n'), "infra", "out_of_memory"),
        (b'{"error": {"message": "EngineCore encountered an issue"}}', "infra", "runner_died"),
        (b"<html>\n", "infra", "garbage"),
        (b"Ollama is running", "infra", "garbage"),
        (b"data: [1]\n\n", "infra", "garbage"),
        (b'data: {"choices": [5]}\n\n', "infra", "garbage"),
        (b'data: {"choices": [{"delta": {"content": 5}}]}\n\n', "infra", "garbage"),
        (sent([chunk({"content": "x" * 2000})]), "deterministic", "reply_too_large"),
    ],
)
def test_what_is_no_answer(raw: bytes, fault: str, kind: str) -> None:
    with pytest.raises(TaskFault) as caught:
        merged(raw, max_bytes=1800)
    assert (caught.value.fault, caught.value.kind) == (fault, kind)


@given(st.binary(max_size=80), st.integers(0, 400))
def test_whatever_comes_is_an_answer_or_a_fault(noise: bytes, at: int) -> None:
    raw = sent(STREAM)
    try:
        merged(raw[:at] + noise + raw[at:])
    except TaskFault:
        return
