"""Turns finished tasks into plain output rows: input columns, answer, cost."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from swarm.formats.openai.replies import finish_reason, usage_of
from swarm.formats.tasks.task_builder import unpack

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
