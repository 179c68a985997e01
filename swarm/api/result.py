"""What came of one task, as Python wants it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens; 0 where a task has none."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """How one task ended."""

    task_id: str
    text: str
    """The answer (of a program: its standard output); empty where there is none."""
    usage: Usage
    document: dict[str, Any]
    """Everything that is on record: the task, its result, its attempts, its error."""
    ok: bool
    error: str | None
    """``type: message`` of what went wrong; None if nothing did."""
    simulated: bool
    """The answer comes from a simulated model server."""
    cached: bool = False
    """The answer was given before and comes from the cache; tokens and times are those of then."""
    index: int | None = None
    """The item's place in what was given to ``map``, from 0."""

    @property
    def embeddings(self) -> list[list[float]]:
        """Vectors of an embedding task, one per input; empty for others."""
        vectors: list[list[float]] = (self.document.get("result") or {}).get("embeddings") or []
        return vectors

    def json(self) -> Any:  # noqa: ANN401 - whatever the model wrote
        """The text read as JSON. Raises ``ValueError`` when it is none."""
        return msgspec.json.decode(self.text)


def result_of(document: dict[str, Any], index: int | None = None) -> Result:
    """The result in a finished document."""
    ok = document["status"] == "completed"
    found = document.get("result")
    result: Mapping[str, Any] = found if isinstance(found, dict) else {}
    usage = result.get("usage") or {}
    return Result(
        task_id=document["task_id"],
        text=_text(result),
        usage=Usage(**{name: int(usage.get(name) or 0) for name in Usage.__struct_fields__}),
        document=document,
        ok=ok,
        error=None if ok else _error(document),
        simulated=bool(document.get("simulated")),
        cached=bool(document.get("cached")),
        index=index,
    )


def _text(result: Mapping[str, Any]) -> str:
    message = result.get("message") or {}
    return str(message.get("content") or result.get("response") or result.get("stdout") or "")


def _error(document: Mapping[str, Any]) -> str:
    error = document.get("error") or {}
    return f"{error.get('type', document['status'])}: {error.get('message', 'no reason was recorded')}"
