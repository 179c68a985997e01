"""Chat messages: from OpenAI's shape (or already Ollama's own) to Ollama's."""

from __future__ import annotations

import base64
import binascii
from typing import Any

import msgspec

from swarm.formats.input.problems import FieldError, did_you_mean, kind, need_list, need_object, need_text

_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant", "tool": "tool"}
_KEPT = ("images", "thinking", "tool_name", "tool_call_id")
_DROPPED = ("name", "refusal", "annotations", "function_call", "audio")
"""No counterpart in Ollama; refused unless null or harmless."""
_HARMLESS_IN_MESSAGE = ("name", "annotations")
_MESSAGE_FIELDS = ("role", "content", "tool_calls", "reasoning", "reasoning_content", *_KEPT, *_DROPPED)


def map_messages(value: object, field: str) -> list[dict[str, Any]]:
    """Ollama's messages for a list of messages. Raises ``FieldError`` naming message and field.

    Text parts are joined with line ends, images in ``data:`` URIs become ``images``. A ``developer`` is a ``system``.
    """
    tool_names: dict[str, str] = {}
    return [_message(message, f"{field}[{i}]", tool_names) for i, message in enumerate(need_list(value, field))]


def _message(value: object, field: str, tool_names: dict[str, str]) -> dict[str, Any]:
    message = {key: inner for key, inner in need_object(value, field).items() if inner is not None}
    for key in message:
        if key not in _MESSAGE_FIELDS:
            raise FieldError(f"{field}.{key}", f"unknown field of a message{did_you_mean(key, _MESSAGE_FIELDS)}")
        if key in _DROPPED and key not in _HARMLESS_IN_MESSAGE:
            raise FieldError(f"{field}.{key}", "has no counterpart in Ollama; leave it out")
    role = message.get("role")
    if not isinstance(role, str) or role not in _ROLES:
        raise FieldError(f"{field}.role", f"must be one of {', '.join(_ROLES)}; is {role!r}")
    mapped: dict[str, Any] = {"role": _ROLES[role]}
    mapped |= _content(message.get("content"), f"{field}.content", may_miss="tool_calls" in message or "images" in message)
    mapped |= {key: message[key] for key in _KEPT if key in message}
    reasoning = message.get("reasoning", message.get("reasoning_content"))
    if reasoning is not None:
        mapped["thinking"] = need_text(reasoning, f"{field}.reasoning")
    if "tool_calls" in message:
        mapped["tool_calls"] = _tool_calls(message["tool_calls"], f"{field}.tool_calls", tool_names)
    call_id = message.get("tool_call_id")
    if "tool_name" not in mapped and isinstance(call_id, str) and call_id in tool_names:
        mapped["tool_name"] = tool_names[call_id]
    return mapped


def _content(value: object, field: str, *, may_miss: bool) -> dict[str, Any]:
    match value:
        case str():
            return {"content": value}
        case None if may_miss:
            return {"content": ""}
        case list():
            return _parts(value, field)
        case _:
            raise FieldError(
                field, f"must be a text or a list of parts, is {kind(value) if value is not None else 'missing'}"
            )


def _parts(parts: list[Any], field: str) -> dict[str, Any]:
    texts: list[str] = []
    images: list[str] = []
    for i, part in enumerate(need_list(parts, field)):
        where = f"{field}[{i}]"
        match need_object(part, where):
            case {"type": "text", "text": str() as text}:
                texts.append(text)
            case {"type": "image_url", "image_url": {"url": str() as url} | (str() as url)}:
                images.append(_image(url, f"{where}.image_url"))
            case {"type": str() as other} if other not in {"text", "image_url"}:
                raise FieldError(
                    where, f"parts of type {other!r} have no counterpart in Ollama; there is text and image_url"
                )
            case _:
                raise FieldError(
                    where, 'must be {"type": "text", "text": …} or {"type": "image_url", "image_url": {"url": …}}'
                )
    return {"content": "\n".join(texts)} | ({"images": images} if images else {})


def _image(url: str, field: str) -> str:
    head, comma, data = url.partition(",")
    if not head.startswith("data:") or not comma:
        raise FieldError(field, "must be a data: URI with the image in base64; swarm fetches nothing from the network")
    if not head.endswith(";base64"):
        raise FieldError(field, "the data: URI must be in base64: data:image/png;base64,…")
    try:
        if not base64.b64decode(data, validate=True):
            raise FieldError(field, "the image is empty")
    except binascii.Error as error:
        raise FieldError(field, f"the image is no base64: {error}") from error
    return data


def _tool_calls(value: object, field: str, tool_names: dict[str, str]) -> list[dict[str, Any]]:
    calls = []
    for i, call in enumerate(need_list(value, field)):
        where = f"{field}[{i}].function"
        function = need_object(need_object(call, f"{field}[{i}]").get("function"), where)
        name = need_text(function.get("name"), f"{where}.name")
        arguments = _arguments(function.get("arguments", {}), f"{where}.arguments")
        mapped: dict[str, Any] = {"function": {"name": name, "arguments": arguments}}
        if isinstance(call.get("id"), str):
            mapped = {"id": call["id"], **mapped}
            tool_names[call["id"]] = name
        calls.append(mapped)
    return calls


def _arguments(value: object, field: str) -> dict[str, Any]:
    """Ollama wants the object itself, OpenAI its JSON text."""
    if isinstance(value, str):
        try:
            value = msgspec.json.decode(value or "{}")
        except (msgspec.DecodeError, RecursionError) as error:
            raise FieldError(field, f"must be a JSON object as text: {error}") from error
    return need_object(value, field)
