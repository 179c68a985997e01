"""Chat messages from Ollama's form to OpenAI's: images as parts, tool calls with ids and their arguments as text.

Raises ``TaskFault`` (deterministic, ``bad_request``) with the path of the field for what is not in Ollama's form.
"""

from __future__ import annotations

import binascii
from base64 import b64decode
from collections.abc import Mapping
from typing import Any

import msgspec

from swarm.core.faults import TaskFault

_KNOWN = frozenset({"role", "content", "thinking", "images", "tool_calls", "tool_name", "tool_call_id"})
_ROLES = ("system", "user", "assistant", "tool")
_IMAGE_TYPES = (
    (b"\x89PNG", "png"),
    (b"\xff\xd8\xff", "jpeg"),
    (b"GIF8", "gif"),
    (b"BM", "bmp"),
)
_HEAD_CHARS = 16
"""So much base64 holds the first twelve bytes of an image."""


def openai_messages(messages: object) -> list[dict[str, Any]]:
    """OpenAI's messages for Ollama's; each tool's answer is tied to the call it answers, by id or else by name and order."""
    if not isinstance(messages, list) or not messages:
        raise refusal("messages", "must be a list that is not empty")
    open_calls: list[tuple[str, str]] = []
    return [_message(one, f"messages[{i}]", open_calls) for i, one in enumerate(messages)]


def content_with_images(text: str, images: object, field: str) -> str | list[dict[str, Any]]:
    """The content of a message: the text alone, or parts with the images first, where Ollama puts them too."""
    if not images:
        return text
    if not isinstance(images, list) or not all(isinstance(image, str) for image in images):
        raise refusal(field, "must be a list of texts in base64")
    parts: list[dict[str, Any]] = [
        {"type": "image_url", "image_url": {"url": f"data:image/{_image_type(image, field)};base64,{image}"}}
        for image in images
    ]
    return [*parts, *([{"type": "text", "text": text}] if text else [])]


def refusal(field: str, why: str) -> TaskFault:
    """The fault for a request that is not in Ollama's form, or cannot be translated."""
    return TaskFault("deterministic", "bad_request", f"request.{field} {why}")


def _message(message: object, field: str, open_calls: list[tuple[str, str]]) -> dict[str, Any]:
    if not isinstance(message, dict):
        raise refusal(field, "must be an object")
    given = {name: value for name, value in message.items() if value is not None}
    if unknown := sorted(given.keys() - _KNOWN):
        raise refusal(f"{field}.{unknown[0]}", "has no counterpart in OpenAI's API")
    role = given.get("role")
    if role not in _ROLES:
        raise refusal(f"{field}.role", f"must be one of {', '.join(_ROLES)}; is {role!r}")
    content = given.get("content", "")
    if not isinstance(content, str):
        raise refusal(f"{field}.content", "must be a text")
    made: dict[str, Any] = {"role": role, "content": content_with_images(content, given.get("images"), f"{field}.images")}
    if given.get("thinking"):
        made["reasoning_content"] = given["thinking"]
    if given.get("tool_calls"):
        made["tool_calls"] = _tool_calls(given["tool_calls"], f"{field}.tool_calls", open_calls)
    if role == "tool":
        made |= {"tool_call_id": _answered_call(given, open_calls)}
        made |= {"name": given["tool_name"]} if given.get("tool_name") else {}
    return made


def _tool_calls(calls: object, field: str, open_calls: list[tuple[str, str]]) -> list[dict[str, Any]]:
    if not isinstance(calls, list):
        raise refusal(field, "must be a list")
    open_calls.clear()
    made = []
    for i, call in enumerate(calls):
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise refusal(f"{field}[{i}].function", "must be an object with a name")
        arguments = function.get("arguments") or {}
        if not isinstance(arguments, dict):
            raise refusal(f"{field}[{i}].function.arguments", "must be an object")
        name, call_id = function["name"], call.get("id") or f"call_{i}"
        open_calls.append((str(call_id), name))
        text = msgspec.json.encode(arguments).decode()
        made.append({"id": str(call_id), "type": "function", "function": {"name": name, "arguments": text}})
    return made


def _answered_call(message: Mapping[str, Any], open_calls: list[tuple[str, str]]) -> str:
    """The id of the call that a tool's message answers: its own word for it, else the first open one of that name."""
    call_id, name = message.get("tool_call_id"), message.get("tool_name")
    if call_id is None:
        found = next((call for call in open_calls if name in (None, call[1])), None)
        call_id = found[0] if found is not None else "call_0"
    open_calls[:] = [call for call in open_calls if call[0] != call_id]
    return str(call_id)


def _image_type(image: str, field: str) -> str:
    """Told from its first bytes, for Ollama's form does not say it; servers look for themselves anyway."""
    try:
        head = b64decode(image[:_HEAD_CHARS], validate=True)
    except binascii.Error as error:
        raise refusal(field, f"holds no base64: {error}") from error
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return "webp"
    return next((name for magic, name in _IMAGE_TYPES if head.startswith(magic)), "png")
