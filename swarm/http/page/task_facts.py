"""What a task's page shows of its document: facts, attempts, texts. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import msgspec

from swarm.clock import parse_iso

FACTS = {
    "Class": "task_class",
    "Model": "model",
    "Action": "action",
    "Name": "name",
    "Batch": "batch_id",
    "Custom id": "custom_id",
    "Priority": "priority",
    "Session": "session",
    "Waits for": "depends_on",
    "Not before": "not_before",
    "Endpoint": "endpoint",
    "Submitted": "created_at",
    "Ended": "completed_at",
}


class AttemptRow(NamedTuple):
    """One attempt."""

    attempt: int
    worker: str
    started_at: str
    took_s: float | None
    outcome: str
    error: str


def facts_of(document: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Names and values, what is empty left out."""
    facts = [(name, _words(document[key])) for name, key in FACTS.items() if document.get(key) not in (None, "", [], {})]
    result = document.get("result")
    usage = (result.get("usage") if isinstance(result, dict) else None) or {}
    if usage:
        facts.append(("Tokens", f"{usage.get('prompt_tokens') or 0:,} in, {usage.get('completion_tokens') or 0:,} out"))
    if document.get("cached"):
        facts.append(("Answer", "from the cache"))
    return facts


def attempt_rows(document: Mapping[str, Any]) -> list[AttemptRow]:
    """Its attempts, the first first."""
    return [
        AttemptRow(
            attempt=one.get("attempt", 0),
            worker=str(one.get("worker", "?")),
            started_at=str(one.get("started_at") or ""),
            took_s=_took_s(one),
            outcome=str(one.get("outcome", "completed")),
            error=error_words(one),
        )
        for one in document.get("attempts") or ()
    ]


def error_words(ended: Mapping[str, Any]) -> str:
    """The error of a task or an attempt; empty where there is none."""
    error = ended.get("error") or {}
    return f"{error.get('type')}: {error.get('message')}" if error else ""


def texts_of(document: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What was asked and answered, each as text that may be long."""
    return [(name, text) for name, text in _texts(document) if text]


def _texts(document: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    request = document.get("request") or {}
    for message in request.get("messages") or ():
        if isinstance(message, dict):
            yield f"Asked ({message.get('role', 'user')})", _words(message.get("content") or "")
    yield "Asked", _words(request.get("prompt") or "")
    yield "Asked", _words(request.get("input") or "")
    yield "Command", _words(document.get("command") or "")
    result = document.get("result")
    if isinstance(result, dict):
        for name, key in (("Thought", "thinking"), ("Answered", "content"), ("Answered", "response"), ("Wrote", "stdout")):
            yield name, _words(result.get(key) or "")
        yield "Result", msgspec.json.format(msgspec.json.encode(result), indent=2).decode()


def _words(value: object) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list | tuple) and all(isinstance(one, str) for one in value):
        return ", ".join(value)
    return msgspec.json.encode(value).decode()


def _took_s(attempt: Mapping[str, Any]) -> float | None:
    try:
        return max(0.0, parse_iso(str(attempt["ended_at"])) - parse_iso(str(attempt["started_at"])))
    except (KeyError, ValueError):
        return None
