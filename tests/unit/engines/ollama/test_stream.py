"""Streams arrive in whatever pieces the network likes; the answer is the same."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.core.faults import TaskFault
from swarm.core.models.model_server import Limits
from swarm.engines.deadlines import Deadlines
from swarm.engines.ollama.stream import Answer, read_lines


def merged(data: bytes, cuts: list[int]) -> dict[str, Any]:
    """The answer when ``data`` arrives cut at these places."""
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    body = [data[a:b] for a, b in itertools.pairwise(edges) if a < b]
    answer = Answer()
    for line in read_lines(body, Deadlines(Limits()), 1 << 20):
        answer.add(line)
        if answer.complete:
            break
    return answer.final


def encode(lines: list[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(line, ensure_ascii=False).encode() + b"\n" for line in lines)


texts = st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=20), max_size=8)
cuts = st.lists(st.integers(0, 10_000), max_size=20)


@given(texts, texts, cuts)
def test_chat_in_any_pieces(contents: list[str], thoughts: list[str], at: list[int]) -> None:
    lines = [{"message": {"role": "assistant", "content": "", "thinking": text}, "done": False} for text in thoughts]
    lines += [{"message": {"role": "assistant", "content": text}, "done": False} for text in contents]
    final = {"message": {"role": "assistant", "content": ""}, "done": True, "done_reason": "stop", "eval_count": 3}
    answer = merged(encode([*lines, final]), at)
    assert answer["message"]["content"] == "".join(contents)
    assert answer["message"].get("thinking", "") == "".join(thoughts)
    assert answer["eval_count"] == 3


@given(texts, cuts, st.integers(1, 200))
def test_a_cut_stream_is_never_an_answer(contents: list[str], at: list[int], missing: int) -> None:
    whole = encode([*({"response": text, "done": False} for text in contents), {"response": "", "done": True}])
    # Losing the last line end alone loses nothing.
    cut = whole[: -min(missing + 1, len(whole))]
    with pytest.raises(TaskFault) as caught:
        merged(cut, at)
    assert (caught.value.fault, caught.value.kind) == ("transient", "half_stream")


def test_generate_keeps_thinking_and_logprobs() -> None:
    lines = [
        {"response": "a", "thinking": "hm", "logprobs": [1], "done": False},
        {"response": "b", "logprobs": [2], "done": False},
        {"response": "", "done": True, "context": [1, 2]},
    ]
    answer = merged(encode(lines), [])
    assert answer["response"] == "ab"
    assert answer["thinking"] == "hm"
    assert answer["logprobs"] == [1, 2]


def test_what_follows_done_is_ignored() -> None:
    lines = [{"response": "a", "done": False}, {"response": "", "done": True}, {"error": "late"}]
    assert merged(encode(lines), [])["response"] == "a"
