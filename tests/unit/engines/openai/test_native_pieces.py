"""Pieces of an answer in Ollama's form: with the last one they add up to the whole answer, whatever comes in which event."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.engines.ollama.stream import Answer
from swarm.engines.openai.event_stream import StreamedAnswer
from swarm.engines.openai.native_pieces import NativePieces, native_end
from swarm.engines.openai.translate_answer import native_answer

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
deltas = st.lists(
    st.one_of(
        st.fixed_dictionaries({"content": texts}),
        st.fixed_dictionaries({"reasoning_content": texts}),
        st.builds(
            lambda index, text: {"tool_calls": [{"index": index, "function": {"name": text}}]}, st.integers(0, 2), texts
        ),
    ),
    max_size=12,
)
CHAT = {"model": "m", "messages": [], "logprobs": True}


def events_of(deltas: list[dict[str, Any]]) -> list[dict[str, Any]]:
    chosen = [{"delta": delta, "finish_reason": None} for delta in deltas] + [{"delta": {}, "finish_reason": "stop"}]
    made: list[dict[str, Any]] = [{"choices": [one], "created": 1764400000} for one in chosen]
    return [*made, {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 4}}]


def passed_on(endpoint: str, request: dict[str, Any], events: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], Any]:
    """The pieces, the last one included, and the whole answer."""
    pieces: list[dict[str, Any]] = []
    whole = StreamedAnswer(None, NativePieces(endpoint, request, pieces.append).add)
    for event in events:
        whole.add(event)
    final = native_answer(endpoint, request, whole.document)
    return [*pieces, *native_end(final, streamed=True)], final


def added_up(pieces: list[dict[str, Any]]) -> dict[str, Any]:
    answer = Answer()
    for piece in pieces:
        answer.add(piece)
    return answer.final


@given(deltas)
def test_a_chat(given_deltas: list[dict[str, Any]]) -> None:
    pieces, final = passed_on("/api/chat", CHAT, events_of(given_deltas))
    assert [piece["done"] for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    assert added_up(pieces) == final
    assert all(piece["model"] == "m" for piece in pieces)


@given(st.lists(texts, max_size=6))
def test_a_completion(parts: list[str]) -> None:
    events = [{"choices": [{"text": part, "finish_reason": None}]} for part in parts]
    events.append({"choices": [{"text": "", "finish_reason": "stop"}]})
    pieces, final = passed_on("/api/generate", {"model": "m", "prompt": "hi"}, events)
    assert added_up(pieces) == final
    assert "".join(piece["response"] for piece in pieces) == "".join(parts)


def test_probabilities_come_with_their_text() -> None:
    token = {"token": "a", "logprob": -0.5}
    events = [{"choices": [{"delta": {"content": "a"}, "logprobs": {"content": [token]}, "finish_reason": "stop"}]}]
    pieces, final = passed_on("/api/chat", CHAT, events)
    assert pieces[0]["logprobs"] == final["logprobs"] == [token]
    assert "logprobs" not in pieces[-1]


@pytest.mark.parametrize("endpoint", ["/api/chat", "/api/generate"])
def test_an_answer_that_came_whole_is_one_piece_and_the_last(endpoint: str) -> None:
    message = {"content": "yes", "reasoning": "hm", "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}
    document = {"choices": [{"message": message, "finish_reason": "stop"}], "created": 1764400000}
    final = native_answer(endpoint, CHAT, document)
    pieces = native_end(final, streamed=False)
    assert len(pieces) == 2
    assert added_up(pieces) == final
