"""Answers from OpenAI's form to Ollama's final object. Pure.

* Times and counters are there only where the server gives them: ``timings`` is llama-server's, ``usage`` may be missing.
* ``prompt_cached_count``: prompt tokens that the server had from an earlier request; part of ``prompt_eval_count``.
* ``usage_missing`` is true where the server counted no tokens: then nobody knows how many there were.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from swarm.core.faults import TaskFault
from swarm.plain_text import one_line

_NS_PER_MS = 1_000_000
_MOST_EPOCH_S = 1 << 37
"""What is later is no date."""
_LIMIT_REACHED = "length"
_BROKEN_OFF = frozenset({"abort", "error"})
"""Finish reasons of vLLM and SGLang for an answer that is not whole."""


class _Function(msgspec.Struct):
    name: str = ""
    arguments: str | dict[str, Any] | None = None


class _ToolCall(msgspec.Struct):
    function: _Function
    id: str | None = None


class _Said(msgspec.Struct):
    role: str | None = None
    content: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[_ToolCall] | None = None


class _Choice(msgspec.Struct):
    message: _Said | None = None
    text: str | None = None
    logprobs: dict[str, Any] | None = None
    finish_reason: str | None = None


class _PromptDetails(msgspec.Struct):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _PromptDetails | None = None


class _Timings(msgspec.Struct):
    cache_n: int | None = None
    prompt_ms: float | None = None
    predicted_ms: float | None = None


class _Vector(msgspec.Struct):
    embedding: list[float]
    index: int | None = None


class _Answer(msgspec.Struct):
    choices: list[_Choice] = msgspec.field(default_factory=list)
    data: list[_Vector] | None = None
    usage: _Usage | None = None
    timings: _Timings | None = None
    created: float | None = None
    simulated: bool = False


def native_answer(endpoint: str, request: Mapping[str, Any], document: Mapping[str, Any]) -> dict[str, Any]:
    """Ollama's final object for a whole answer; ``request`` is the one in Ollama's form that it answers.

    Raises ``TaskFault``: ``garbage`` for what is no such answer, ``aborted`` for one that was broken off by the server,
    ``cut_short`` and ``schema_mismatch`` for a tool call whose arguments are no JSON object.
    """
    answer = _read(document)
    final: dict[str, Any] = {"model": request.get("model"), "done": True}
    final |= creation(answer.created)
    if endpoint == "/api/embed":
        del final["done"]
        final |= {"embeddings": _vectors(answer, request)} | _counters(answer, answered=False)
    else:
        final |= _said(endpoint, request, answer) | _counters(answer, answered=True)
    return final | ({"simulated": True} if answer.simulated else {})


def creation(created_s: object) -> dict[str, str]:
    """``created_at`` for seconds since 1970; empty for what is no date."""
    if not isinstance(created_s, (int, float)) or not 0 < created_s < _MOST_EPOCH_S:
        return {}
    return {"created_at": datetime.fromtimestamp(created_s, UTC).isoformat()}


def _read(document: Mapping[str, Any]) -> _Answer:
    try:
        return msgspec.convert(document, _Answer, strict=True)
    except msgspec.ValidationError as error:
        raise _garbage(str(error)) from error


def _said(endpoint: str, request: Mapping[str, Any], answer: _Answer) -> dict[str, Any]:
    if not answer.choices:
        raise _garbage("it has no choices")
    choice = answer.choices[0]
    reason = choice.finish_reason or "stop"
    if reason in _BROKEN_OFF:
        raise TaskFault("transient", "aborted", "the server broke the answer off before its end")
    said = choice.message
    if said is None and choice.text is None:
        raise _garbage("its choice has neither a message nor a text")
    text = (said.content if said is not None else choice.text) or ""
    thinking = (said.reasoning_content or said.reasoning or "") if said is not None else ""
    calls = _tool_calls(said.tool_calls or (), reason) if said is not None else []
    final: dict[str, Any] = {"done_reason": reason if reason not in ("tool_calls", "function_call") else "stop"}
    extras = {"thinking": thinking} if thinking else {}
    if endpoint == "/api/chat":
        final["message"] = {"role": "assistant", "content": text, **extras, **({"tool_calls": calls} if calls else {})}
    else:
        final |= {"response": text, **extras}
    if request.get("logprobs") and choice.logprobs:
        final["logprobs"] = native_logprobs(choice.logprobs, request.get("top_logprobs") or 0)
    return final


def _tool_calls(calls: Sequence[_ToolCall], reason: str) -> list[dict[str, Any]]:
    made = []
    for index, call in enumerate(calls):
        arguments = call.function.arguments
        if isinstance(arguments, str):
            try:
                arguments = msgspec.json.decode(arguments or "{}", type=dict[str, Any])
            except (msgspec.MsgspecError, RecursionError) as error:
                raise _bad_call(call.function.name, str(error), reason) from error
        function = {"index": index, "name": call.function.name, "arguments": arguments or {}}
        made.append({**({"id": call.id} if call.id else {}), "function": function})
    return made


def _bad_call(name: str, why: str, reason: str) -> TaskFault:
    if reason == _LIMIT_REACHED:
        what = f"the call of {one_line(name, 60)} was cut at the answer's token limit; raise options.num_predict"
        return TaskFault("deterministic", "cut_short", what)
    what = f"the model called {one_line(name, 60)} with arguments that are no JSON object: {one_line(why, 200)}"
    return TaskFault("transient", "schema_mismatch", what)


def native_logprobs(logprobs: Mapping[str, Any], top: int) -> list[dict[str, Any]]:
    """One entry per token; of chats it is that already, of text completions there are parallel lists (or llama-server's)."""
    content = logprobs.get("content")
    if isinstance(content, list):
        return [_token(entry, top) for entry in content if isinstance(entry, dict)]
    texts, values = logprobs.get("tokens"), logprobs.get("token_logprobs")
    if not isinstance(texts, list) or not isinstance(values, list):
        return []
    others = logprobs.get("top_logprobs") or [None] * len(texts)
    made = []
    for text, value, alternatives in zip(texts, values, others, strict=False):
        entry: dict[str, Any] = {"token": text, "logprob": value}
        if isinstance(alternatives, dict) and top:
            best = sorted(alternatives.items(), key=lambda one: -one[1])[:top]
            entry["top_logprobs"] = [{"token": token, "logprob": logprob} for token, logprob in best]
        made.append(entry)
    return made


def _token(entry: Mapping[str, Any], top: int) -> dict[str, Any]:
    kept = {name: entry[name] for name in ("token", "logprob", "bytes") if entry.get(name) is not None}
    others = entry.get("top_logprobs")
    if top and isinstance(others, list):
        kept["top_logprobs"] = [_token(other, 0) for other in others[:top] if isinstance(other, dict)]
    return kept


def _vectors(answer: _Answer, request: Mapping[str, Any]) -> list[list[float]]:
    """In the order of the input, whatever order they came in."""
    if answer.data is None:
        raise _garbage("it has no data")
    asked = request.get("input")
    wanted = len(asked) if isinstance(asked, list) else 1
    order = [vector.index if vector.index is not None else i for i, vector in enumerate(answer.data)]
    if sorted(order) != list(range(wanted)):
        raise _garbage(f"it has vectors of index {order[:8]} for {wanted} texts")
    by_index = dict(zip(order, answer.data, strict=True))
    return [by_index[i].embedding for i in range(wanted)]


def _counters(answer: _Answer, *, answered: bool) -> dict[str, Any]:
    usage, timings = answer.usage, answer.timings
    if usage is None or usage.prompt_tokens is None:
        return {"usage_missing": True}
    made: dict[str, Any] = {"prompt_eval_count": usage.prompt_tokens}
    if answered:
        made["eval_count"] = usage.completion_tokens or 0
    cached = usage.prompt_tokens_details.cached_tokens if usage.prompt_tokens_details is not None else None
    if timings is not None:
        cached = timings.cache_n if timings.cache_n is not None else cached
        for name, value in (("prompt_eval_duration", timings.prompt_ms), ("eval_duration", timings.predicted_ms)):
            if value is not None and 0 < value < 1 << 40:
                made[name] = int(value * _NS_PER_MS)
    if cached is not None:
        made["prompt_cached_count"] = min(max(0, cached), usage.prompt_tokens)
    return made


def _garbage(why: str) -> TaskFault:
    return TaskFault("infra", "garbage", f"the answer is not in OpenAI's form: {one_line(why, 200)}")
