"""The input's columns inside the task: kept so that the output can be written from the task alone, each text once.

``metadata`` gets ``columns`` (all names, in the input's order) and ``input`` (the values that the task does not hold
elsewhere). What the request or ``custom_id`` holds already is read back from there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_ABSENT = object()


def pack(record: Mapping[str, Any], document: Mapping[str, Any], prompt_column: str | None) -> dict[str, Any]:
    """The metadata entries for ``record``: ``columns``, and as far as needed ``input`` and where the prompt came from."""
    kept = dict(record)
    packed: dict[str, Any] = {"columns": list(record)}
    if kept.get("custom_id", _ABSENT) == document.get("custom_id"):
        del kept["custom_id"]
    if prompt_column is not None:
        held = "prompt_column" if isinstance(record[prompt_column], str) else "messages_column"
        if _prompt(document, held) == record[prompt_column]:
            del kept[prompt_column]
            packed[held] = prompt_column
    if kept:
        packed["input"] = kept
    return packed


def unpack(document: Mapping[str, Any]) -> dict[str, Any]:
    """The input's columns of a task, in the input's order. Tasks that came from no file have at most a ``custom_id``."""
    metadata = document.get("metadata") or {}
    kept = metadata.get("input")
    kept = kept if isinstance(kept, dict) else {}
    columns = metadata.get("columns")
    if not isinstance(columns, list):
        custom_id = document.get("custom_id")
        return {**({} if custom_id is None else {"custom_id": custom_id}), **kept}
    return {name: kept[name] if name in kept else _held(document, metadata, name) for name in columns}


def _held(document: Mapping[str, Any], metadata: Mapping[str, Any], name: str) -> object:
    for held in ("prompt_column", "messages_column"):
        if metadata.get(held) == name:
            return _prompt(document, held)
    return document.get(name)


def _prompt(document: Mapping[str, Any], held: str) -> object:
    """The prompt in a request: as the text of its last message, or as the list it was given as."""
    request = document.get("request") or {}
    messages = request.get("messages")
    if messages is None:
        return request.get("prompt", request.get("input"))
    if held == "messages_column":
        return messages
    return messages[-1].get("content") if messages else None
