"""Finished tasks as rows of an output: plain ones (input columns, answer, cost) and lines of an OpenAI batch."""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

import msgspec

from swarm.formats.tasks.task_builder import unpack


def output_line(document: Mapping[str, Any], finished: Mapping[str, Any] | None) -> tuple[dict[str, Any], bool]:
    """One line of the output, and whether it is a success (output file) or not (errors file).

    ``document`` is the task's body, ``finished`` the whole finished document, None when the task has not ended.
    Ids are made of the task's, so exporting twice gives the same lines.
    """
    task_id = (finished or {}).get("task_id") or document.get("task_id") or document.get("custom_id")
    line: dict[str, Any] = {
        "id": f"batch_req_{task_id}",
        "custom_id": document.get("custom_id"),
        "response": None,
        "error": None,
    }
    if finished is None or finished.get("status") != "completed" or not isinstance(finished.get("result"), dict):
        return line | {"error": _openai_error(finished)}, False
    body = response_body(document, finished)
    return line | {"response": {"status_code": 200, "request_id": f"req_{task_id}", "body": body}}, True


def response_body(document: Mapping[str, Any], finished: Mapping[str, Any]) -> dict[str, Any]:
    """The body OpenAI's endpoint would have answered with; ``"simulated": true`` is added where a simulation answered."""
    metadata = document.get("metadata") or {}
    result: Mapping[str, Any] = finished["result"]
    task_id = str(finished.get("task_id", ""))
    model = finished.get("model") or document.get("model") or ""
    match metadata.get("url"):
        case "/v1/chat/completions":
            body = _text_body("chatcmpl", "chat.completion", task_id, model, finished)
            body["choices"] = [_chat_choice(result, task_id)]
        case "/v1/completions":
            body = _text_body("cmpl", "text_completion", task_id, model, finished)
            body["choices"] = [_text_choice(result)]
        case _:
            vectors = result.get("embeddings") or []
            in_base64 = metadata.get("encoding_format") == "base64"
            body = {
                "object": "list",
                "data": [_vector(i, v, in_base64=in_base64) for i, v in enumerate(vectors)],
                "model": model,
            }
            usage = usage_of(result)
            tokens = None if usage is None else usage["prompt_tokens"]
            body["usage"] = None if tokens is None else {"prompt_tokens": tokens, "total_tokens": tokens}
    return body | ({"simulated": True} if finished.get("simulated") else {})


def _text_body(prefix: str, name: str, task_id: str, model: str, finished: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "id": f"{prefix}-{task_id}",
        "object": name,
        "created": _epoch_s(finished.get("completed_at") or finished.get("created_at")),
        "model": model,
        "choices": [],
        "usage": usage_of(finished["result"]),
        "system_fingerprint": None,
    }


def _chat_choice(result: Mapping[str, Any], task_id: str) -> dict[str, Any]:
    said = result.get("message") or {}
    calls = said.get("tool_calls") or []
    message: dict[str, Any] = {
        "role": "assistant",
        "content": said.get("content") or (None if calls else ""),
        "refusal": None,
    }
    if said.get("thinking"):
        message["reasoning"] = said["thinking"]
    if calls:
        message["tool_calls"] = [tool_call(call, i, task_id) for i, call in enumerate(calls)]
    tokens = result.get("logprobs")
    logprobs = chat_logprobs(tokens) if tokens else None
    return {"index": 0, "message": message, "logprobs": logprobs, "finish_reason": finish_reason(result)}


def chat_logprobs(tokens: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The log probabilities of a chat's tokens, or of those in one piece of it."""
    return {"content": [_token(token) for token in tokens], "refusal": None}


def _text_choice(result: Mapping[str, Any]) -> dict[str, Any]:
    tokens = result.get("logprobs")
    return {
        "index": 0,
        "text": result.get("response") or "",
        "logprobs": text_logprobs(tokens) if tokens else None,
        "finish_reason": finish_reason(result),
    }


def tool_call(call: Mapping[str, Any], index: int, task_id: str) -> dict[str, Any]:
    """A tool call, with an id made of the task's where the server gave none."""
    function = call.get("function") or {}
    arguments = msgspec.json.encode(function.get("arguments") or {}).decode()
    return {
        "id": call.get("id") or f"call_{task_id}_{index}",
        "type": "function",
        "function": {"name": function.get("name", ""), "arguments": arguments},
    }


def _token(token: Mapping[str, Any]) -> dict[str, Any]:
    top = [_token({**other, "top_logprobs": ()}) for other in token.get("top_logprobs") or ()]
    text = str(token.get("token", ""))
    found = {"token": text, "logprob": token.get("logprob", 0.0), "bytes": token.get("bytes") or list(text.encode())}
    return found | ({} if token.get("top_logprobs") == () else {"top_logprobs": top})


def text_logprobs(tokens: list[Mapping[str, Any]], offset: int = 0) -> dict[str, Any]:
    """Four parallel lists, as text completions have it. ``offset``: characters before the first of these tokens."""
    texts = [str(token.get("token", "")) for token in tokens]
    offsets = [offset]
    for text in texts[:-1]:
        offsets.append(offsets[-1] + len(text))
    top = [{str(o.get("token", "")): o.get("logprob", 0.0) for o in token.get("top_logprobs") or ()} for token in tokens]
    return {
        "tokens": texts,
        "token_logprobs": [token.get("logprob", 0.0) for token in tokens],
        "top_logprobs": top,
        "text_offset": offsets,
    }


def _vector(index: int, values: list[float], *, in_base64: bool) -> dict[str, Any]:
    packed = base64.b64encode(struct.pack(f"<{len(values)}f", *values)).decode() if in_base64 else values
    return {"object": "embedding", "index": index, "embedding": packed}


def _openai_error(finished: Mapping[str, Any] | None) -> dict[str, str]:
    if finished is None:
        return {"code": "unfinished", "message": "the task has not ended yet"}
    status = str(finished.get("status") or "unfinished")
    error = finished.get("error") or {}
    code = error.get("type") or ("cancelled" if status == "cancelled" else "failed")
    return {"code": str(code), "message": str(error.get("message") or f"the task is {status} and has no result")}


def _epoch_s(moment: str | None) -> int:
    try:
        return int(datetime.fromisoformat(moment).timestamp()) if moment else 0
    except ValueError:
        return 0


def usage_of(result: Mapping[str, Any]) -> dict[str, Any] | None:
    """Token counts of a result: its ``usage``, else Ollama's own counters; what is missing counts 0.

    None: the server did not count. Where it said how many prompt tokens it did not have to compute again,
    ``prompt_tokens_details`` has them.
    """
    if result.get("usage_missing"):
        return None
    usage = result.get("usage") or {}
    prompt = usage.get("prompt_tokens", result.get("prompt_eval_count")) or 0
    completion = usage.get("completion_tokens", result.get("eval_count")) or 0
    found = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
    cached = usage.get("cached_tokens", result.get("prompt_cached_count"))
    if cached is not None:
        found["prompt_tokens_details"] = {"cached_tokens": cached}
    return found


def finish_reason(result: Mapping[str, Any]) -> str:
    """``stop``, ``length`` or ``tool_calls``."""
    if (result.get("message") or {}).get("tool_calls"):
        return "tool_calls"
    return "length" if result.get("done_reason") == "length" else "stop"


OUTPUT_COLUMNS = (
    "response",
    "finish_reason",
    "usage",
    "duration_s",
    "load_s",
    "tokens_per_s",
    "model",
    "task_id",
    "status",
    "error",
    "thinking",
    "tool_calls",
    "cached",
    "simulated",
)
"""The columns swarm adds; the last four only where there is something to say."""
_NS = 1e9
_ABSENT = object()


def plain_row(document: Mapping[str, Any], finished: Mapping[str, Any] | None) -> dict[str, Any]:
    """One output row. ``finished`` None: the task has not ended, its ``status`` is ``unfinished``.

    An input column of the same name as one of ours is kept as ``input_<name>`` (with more ``input_`` before it if that
    is taken too), unless both say the same.
    """
    answer = _answer(document, finished)
    columns = unpack(document)
    taken = {*columns, *OUTPUT_COLUMNS}
    row: dict[str, Any] = {}
    for name, value in columns.items():
        if name not in OUTPUT_COLUMNS:
            row[name] = value
        elif answer.get(name, _ABSENT) != value:
            moved = f"input_{name}"
            while moved in taken:
                moved = f"input_{moved}"
            taken.add(moved)
            row[moved] = value
    return row | answer


def _answer(document: Mapping[str, Any], finished: Mapping[str, Any] | None) -> dict[str, Any]:
    ended: Mapping[str, Any] = finished or {}
    status = ended.get("status") or "unfinished"
    found = ended.get("result")
    result: Mapping[str, Any] = found if status == "completed" and isinstance(found, dict) else {}
    answer: dict[str, Any] = {
        "response": _response(result),
        "finish_reason": finish_reason(result) if result else None,
        "usage": usage_of(result) if result else None,
        "duration_s": _duration_s(result, ended),
        "load_s": _seconds(result.get("load_duration")),
        "tokens_per_s": _rate(result),
        "model": ended.get("model") or document.get("model"),
        "task_id": ended.get("task_id") or document.get("task_id"),
        "status": status,
        "error": _error(ended.get("error")),
    }
    message = result.get("message") or {}
    extras = {
        "thinking": message.get("thinking") or result.get("thinking"),
        "tool_calls": message.get("tool_calls"),
        "cached": bool(ended.get("cached")),
        "simulated": bool(ended.get("simulated")),
    }
    return answer | {name: value for name, value in extras.items() if value}


def _response(result: Mapping[str, Any]) -> object:
    """The text; for embeddings the vector, or the list of them where the input was a list."""
    if "message" in result:
        return result["message"].get("content") or ""
    if "embeddings" in result:
        vectors = result["embeddings"]
        return vectors[0] if len(vectors) == 1 else vectors
    return result.get("response")


def _error(error: object) -> dict[str, Any] | None:
    if not isinstance(error, dict):
        return None
    return {"type": error.get("type", "failed"), "message": error.get("message", "")}


def _duration_s(result: Mapping[str, Any], ended: Mapping[str, Any]) -> float | None:
    """The server's own time for the request; for what has none, the last attempt's wall-clock time."""
    if result.get("total_duration"):
        return _seconds(result["total_duration"])
    attempts = ended.get("attempts") or ()
    if not attempts:
        return None
    try:
        started, stopped = (datetime.fromisoformat(attempts[-1][key]) for key in ("started_at", "ended_at"))
        return round((stopped - started).total_seconds(), 6)
    except (KeyError, ValueError, TypeError):
        return None


def _seconds(nanoseconds: object) -> float | None:
    return round(nanoseconds / _NS, 6) if isinstance(nanoseconds, int | float) else None


def _rate(result: Mapping[str, Any]) -> float | None:
    tokens, nanoseconds = result.get("eval_count"), result.get("eval_duration")
    return round(tokens / nanoseconds * _NS, 2) if tokens and nanoseconds else None
