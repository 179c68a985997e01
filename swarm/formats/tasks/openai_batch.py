"""OpenAI batch requests, and chat messages, to Ollama's own.

Three kinds of fields: mapped ones; harmless ones, which change no answer and are left out; and all others, which are
refused, because an answer to a different question is worse than none.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any

import msgspec

from swarm.core.task import Endpoint
from swarm.formats.input.problems import (
    FieldError,
    did_you_mean,
    kind,
    need_bool,
    need_choice,
    need_int,
    need_list,
    need_number,
    need_object,
    need_text,
)

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
EMBEDDINGS = "/v1/embeddings"
_NUMBERS: dict[str, tuple[float | None, float | None]] = {
    "temperature": (0, 2),
    "top_p": (0, 1),
    "min_p": (0, 1),
    "presence_penalty": (-2, 2),
    "frequency_penalty": (-2, 2),
}
_EFFORTS = {"none": False, "minimal": "low", "low": "low", "medium": "medium", "high": "high", "xhigh": "max", "max": "max"}
_ONLY = {
    "n": 1,
    "best_of": 1,
    "stream": False,
    "echo": False,
    "parallel_tool_calls": True,
    "modalities": ["text"],
    "logit_bias": {},
}
"""Fields of which Ollama can do exactly one value."""
_HARMLESS = frozenset(
    {"user", "metadata", "store", "service_tier", "safety_identifier", "prediction", "stream_options"}
    | {"prompt_cache_key", "prompt_cache_retention"}
)
_SAMPLING = {*_NUMBERS, "seed", "top_k", "stop", "max_tokens", "n", "stream", "logit_bias", "logprobs"}
_FIELDS: Mapping[str, frozenset[str]] = {
    CHAT: frozenset(
        _SAMPLING
        | {"model", "messages", "max_completion_tokens", "response_format", "tools", "tool_choice", "parallel_tool_calls"}
        | {"top_logprobs", "reasoning_effort", "modalities"}
    ),
    COMPLETIONS: frozenset(_SAMPLING | {"model", "prompt", "suffix", "best_of", "echo"}),
    EMBEDDINGS: frozenset({"model", "input", "dimensions", "encoding_format"}),
}


class Mapped(msgspec.Struct, frozen=True):
    """A body in Ollama's words."""

    endpoint: Endpoint
    request: dict[str, Any]
    model: str | None
    notes: dict[str, Any]
    """What the way back needs to know besides the request."""


def map_body(url: str, body: Mapping[str, Any], *, raw: bool = False) -> Mapped:
    """The Ollama request for one OpenAI body. Raises ``FieldError`` with the path of the field, such as ``body.n``.

    ``raw``: text completions go to the model as they are, as they do on every server but Ollama, which puts them into the
    model's template like any prompt.
    """
    if url not in _FIELDS:
        raise FieldError("url", f"{url!r} is not served; there is {', '.join(_FIELDS)}")
    given = {name: value for name, value in body.items() if value is not None and name not in _HARMLESS}
    _check_names(url, given)
    model = need_text(given["model"], "body.model") if "model" in given else None
    match url:
        case "/v1/chat/completions":
            return Mapped("/api/chat", _chat(given), model, {})
        case "/v1/completions":
            request = _completion(given)
            return Mapped("/api/generate", request | ({"raw": True} if raw and "suffix" not in request else {}), model, {})
        case _:
            return _embedding(given, model)


def _check_names(url: str, given: Mapping[str, Any]) -> None:
    for name, value in given.items():
        if name not in _FIELDS[url]:
            close = did_you_mean(name, _FIELDS[url])
            advice = close if "did you mean" in close else ""
            raise FieldError(f"body.{name}", f"not supported for {url}{advice}; leaving it out would change the answer")
        if name in _ONLY and value != _ONLY[name]:
            only = msgspec.json.encode(_ONLY[name]).decode()
            raise FieldError(f"body.{name}", f"only {only} is supported")


def _chat(given: Mapping[str, Any]) -> dict[str, Any]:
    if "messages" not in given:
        raise FieldError("body.messages", "is missing")
    request: dict[str, Any] = {"messages": map_messages(given["messages"], "body.messages")}
    if "response_format" in given:
        request |= _format(need_object(given["response_format"], "body.response_format"))
    if "tools" in given and _tools_wanted(given.get("tool_choice", "auto")):
        request["tools"] = [
            _tool(tool, f"body.tools[{i}]") for i, tool in enumerate(need_list(given["tools"], "body.tools"))
        ]
    if "reasoning_effort" in given:
        request["think"] = need_choice(given["reasoning_effort"], "body.reasoning_effort", _EFFORTS)
    if need_bool(given.get("logprobs", False), "body.logprobs"):
        request["logprobs"] = True
        request["top_logprobs"] = need_int(given.get("top_logprobs", 0), "body.top_logprobs", 0, 20)
    elif "top_logprobs" in given:
        raise FieldError("body.top_logprobs", "needs logprobs: true beside it")
    return _with_options(request, given)


def _completion(given: Mapping[str, Any]) -> dict[str, Any]:
    prompt = given.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1:
        prompt = prompt[0]
    if isinstance(prompt, list):
        raise FieldError("body.prompt", "must be one text; give each prompt (never token numbers) a line of its own")
    request: dict[str, Any] = {"prompt": need_text(prompt, "body.prompt")}
    if "suffix" in given:
        request["suffix"] = need_text(given["suffix"], "body.suffix")
    if "logprobs" in given:
        request["logprobs"] = True
        request["top_logprobs"] = need_int(given["logprobs"], "body.logprobs", 0, 5)
    return _with_options(request, given)


def _embedding(given: Mapping[str, Any], model: str | None) -> Mapped:
    text = given.get("input")
    if isinstance(text, list):
        for i, part in enumerate(need_list(text, "body.input")):
            if isinstance(part, int | list):
                raise FieldError(f"body.input[{i}]", "token numbers are not supported; give the text")
            need_text(part, f"body.input[{i}]")
    else:
        need_text(text, "body.input")
    request: dict[str, Any] = {"input": text}
    if "dimensions" in given:
        request["dimensions"] = need_int(given["dimensions"], "body.dimensions", 1, None)
    encoding = need_choice(
        given.get("encoding_format", "float"), "body.encoding_format", {"float": "float", "base64": "base64"}
    )
    return Mapped("/api/embed", request, model, {} if encoding == "float" else {"encoding_format": encoding})


def _with_options(request: dict[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    options: dict[str, Any] = {
        name: need_number(given[name], f"body.{name}", *bounds) for name, bounds in _NUMBERS.items() if name in given
    }
    for name in ("seed", "top_k"):
        if name in given:
            options[name] = need_int(given[name], f"body.{name}", None, None)
    for name in ("max_completion_tokens", "max_tokens"):
        if name in given and "num_predict" not in options:
            options["num_predict"] = need_int(given[name], f"body.{name}", 1, None)
    if "stop" in given:
        stop = [given["stop"]] if isinstance(given["stop"], str) else need_list(given["stop"], "body.stop")
        options["stop"] = [need_text(part, "body.stop") for part in stop]
    return request | ({"options": options} if options else {})


def _format(wanted: Mapping[str, Any]) -> dict[str, Any]:
    match wanted.get("type"):
        case "text":
            return {}
        case "json_object":
            return {"format": "json"}
        case "json_schema":
            outer = need_object(wanted.get("json_schema"), "body.response_format.json_schema")
            return {"format": need_object(outer.get("schema"), "body.response_format.json_schema.schema")}
        case other:
            raise FieldError("body.response_format.type", f"must be text, json_object or json_schema; is {other!r}")


def _tools_wanted(choice: object) -> bool:
    if choice not in ("auto", "none"):
        raise FieldError("body.tool_choice", "only auto and none are supported: Ollama cannot force a call")
    return bool(choice == "auto")


def _tool(value: object, field: str) -> dict[str, Any]:
    tool = need_object(value, field)
    if tool.get("type") != "function":
        raise FieldError(f"{field}.type", f"must be function, is {tool.get('type')!r} ({kind(tool.get('type'))})")
    function = need_object(tool.get("function"), f"{field}.function")
    need_text(function.get("name"), f"{field}.function.name")
    return {"type": "function", "function": {key: value for key, value in function.items() if key != "strict"}}


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
