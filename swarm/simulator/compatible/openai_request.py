"""Reads requests in OpenAI's form, and llama-server's own ``/completion``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from swarm.simulator.generation import Ask
from swarm.simulator.http import ApiError

Kind = Literal["chat", "completion", "native", "embedding"]
INVALID = "invalid_request_error"


@dataclass(slots=True)
class OpenAiRequest:
    """A request as understood."""

    kind: Kind
    body: dict[str, Any]
    model: str
    """Empty where none is named."""
    ask: Ask
    include_usage: bool
    """In the stream as well."""
    base64: bool
    """Embeddings as base64 of little-endian float32."""


def read_object(raw: bytes) -> dict[str, Any]:
    """The JSON object of a request. Raises ``ApiError`` 400."""
    try:
        return msgspec.json.decode(raw, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise ApiError(400, f"Failed to parse the request body: {error}") from error


def read_request(kind: Kind, raw: bytes, arrived: float) -> OpenAiRequest:
    """Understand a request. Raises ``ApiError`` 400."""
    body = read_object(raw)
    options = body.get("stream_options")
    return OpenAiRequest(
        kind,
        body,
        str(body.get("model") or ""),
        _texts_asked(body, arrived) if kind == "embedding" else _asked(kind, body, arrived),
        include_usage=isinstance(options, dict) and bool(options.get("include_usage")),
        base64=body.get("encoding_format") == "base64",
    )


def _asked(kind: Kind, body: dict[str, Any], arrived: float) -> Ask:
    names = ("n_predict", "max_tokens") if kind == "native" else ("max_completion_tokens", "max_tokens", "n_predict")
    limits = [body[name] for name in names if body.get(name) is not None]
    if limits and (isinstance(limits[0], bool) or not isinstance(limits[0], int)):
        raise ApiError(400, f"max_tokens must be an integer, but is {limits[0]!r}")
    tools = body.get("tools") if kind == "chat" and body.get("tool_choice") != "none" else None
    return Ask(
        arrived,
        prompt=_said(body) if kind == "chat" else _prompt(body),
        limit=limits[0] if limits else -1,
        form=_form(body),
        thinks=kind == "chat" and _thinks(body),
        tool=str(tools[0].get("function", {}).get("name", "")) if tools else "",
        stream=bool(body.get("stream")),
    )


def _said(body: dict[str, Any]) -> str:
    messages = body.get("messages")
    if messages is None:
        raise ApiError(400, "'messages' is required")
    if not isinstance(messages, list):
        raise ApiError(400, "Expected 'messages' to be an array")
    parts = []
    for message in messages:
        content = message.get("content") if isinstance(message, dict) else None
        if isinstance(content, list):
            parts += [_part(one) for one in content]
        elif content:
            parts.append(str(content))
    return "\n".join(parts)


def _part(part: object) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    if isinstance(part, dict) and kind in {"text", "input_text"}:
        return str(part.get("text") or "")
    if kind == "image_url":
        hint = "hint: if this is unexpected, you may need to provide the mmproj"
        raise ApiError(500, f"image input is not supported - {hint}")
    raise ApiError(400, "unsupported content[].type")


def _prompt(body: dict[str, Any]) -> str:
    prompt = body.get("prompt")
    match prompt:
        case str():
            return prompt
        case [str(only)]:
            return only
        case [int(), *_]:
            return " ".join(map(str, prompt))
        case None:
            raise ApiError(400, '"prompt" is required')
        case _:
            raise ApiError(400, "simulated: one prompt to a request")


def _form(body: dict[str, Any]) -> Any:  # noqa: ANN401 - a JSON value
    if schema := body.get("json_schema") or body.get("guided_json"):
        return schema
    form = body.get("response_format")
    if not form:
        return None
    match form.get("type") if isinstance(form, dict) else form:
        case "json_object":
            return form.get("schema") or "json"
        case "json_schema":
            return (form.get("json_schema") or {}).get("schema") or "json"
        case "text":
            return None
        case other:
            raise ApiError(400, f'response_format type must be one of "text" or "json_object", but got: {other}')


def _thinks(body: dict[str, Any]) -> bool:
    kwargs = body.get("chat_template_kwargs")
    return not (isinstance(kwargs, dict) and kwargs.get("enable_thinking") is False)


def _texts_asked(body: dict[str, Any], arrived: float) -> Ask:
    value = body.get("input", body.get("content"))
    if value is None:
        raise ApiError(400, '"input" or "content" must be provided')
    several = value if isinstance(value, list) else [value]
    if several and all(isinstance(one, int) for one in several):
        several = [several]
    if not several:
        raise ApiError(400, '"input" must not be empty')
    texts = []
    for one in several:
        text = " ".join(map(str, one)) if isinstance(one, list) else one
        if not isinstance(text, str):
            raise ApiError(400, '"prompt" elements must be a string, a list of tokens')
        if not text:
            raise ApiError(400, "Input content cannot be empty")
        texts.append(text)
    return Ask(arrived, texts=texts)
