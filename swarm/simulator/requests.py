"""Reading request bodies, and refusing them in Ollama's words.

An error as the API tells it.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

import msgspec

from swarm.simulator.environment import parse_duration
from swarm.simulator.store import SimModel


class ApiError(Exception):
    """Ends a request with this status and ``{"error": text}``; in mid-stream, with an error line."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


def model_missing(name: str, *, embedding: bool = False) -> ApiError:
    """The two ways in which Ollama says that there is no such model."""
    return ApiError(404, f'model "{name}" not found, try pulling it first' if embedding else f"model '{name}' not found")


def runner_died() -> ApiError:
    """What Ollama says when a runner dies under a request."""
    return ApiError(500, "an error was encountered while running the model: unexpected EOF")


def runner_stopped() -> ApiError:
    """What Ollama says when the runner of a request turns out to be dead already."""
    return ApiError(
        500, "model runner has unexpectedly stopped, this may be due to resource limitations or an internal error"
    )


_NAME_RE = re.compile(r"([\w.-]+(:\d+)?/){0,2}[\w.-]+(:[\w.-]+)?")
GENERATE, CHAT, EMBED = "/api/generate", "/api/chat", "/api/embed"


@dataclass(slots=True)
class Call:
    """A generate, chat or embed request as understood."""

    endpoint: str
    body: dict[str, Any]
    name: str
    options: dict[str, Any]
    stream: bool
    keep_alive_s: float | None
    """Infinite: for ever; None: as before."""
    arrived: float
    """On the loop's clock."""
    fault: str | None = None

    @property
    def empty(self) -> bool:
        """Nothing to compute: the request is about loading or unloading."""
        return not self.body.get({GENERATE: "prompt", CHAT: "messages", EMBED: "input"}[self.endpoint])

    @property
    def unloads(self) -> bool:
        return self.empty and self.keep_alive_s == 0 and self.endpoint != EMBED


def read_body(raw: bytes) -> dict[str, Any]:
    """The JSON object of a request. Raises ``ApiError`` 400."""
    if not raw.strip():
        raise ApiError(400, "missing request body")
    try:
        return msgspec.json.decode(raw, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise ApiError(400, f"invalid request body: {error}") from error


def model_name(body: dict[str, Any]) -> str:
    """The model a request names, also under the old key. Raises ``ApiError`` 400."""
    name = body.get("model") or body.get("name")
    if not name or not isinstance(name, str):
        raise ApiError(400, "model is required")
    return name


def read_call(endpoint: str, raw: bytes, arrived: float) -> Call:
    """Understand a request. Raises ``ApiError``."""
    body = read_body(raw)
    options = body.get("options") or {}
    stream = body.get("stream", True)
    wanted = {"options": (options, dict), "stream": (stream, bool)}
    if endpoint == CHAT:
        wanted["messages"] = (body.get("messages") or [], list)
    if endpoint == GENERATE:
        wanted["prompt"] = (body.get("prompt") or "", str)
    for field, (value, kind) in wanted.items():
        if not isinstance(value, kind):
            raise ApiError(400, f"json: cannot unmarshal {type(value).__name__} into field {field}")
    keep_alive_s = _keep_alive_s(body.get("keep_alive"))
    return Call(endpoint, body, _called(endpoint, body), options, stream, keep_alive_s, arrived)


def _called(endpoint: str, body: dict[str, Any]) -> str:
    """The model to work with. Each route has its own way of missing it."""
    name = body.get("model") or ""
    if not isinstance(name, str):
        raise ApiError(400, f"json: cannot unmarshal {type(name).__name__} into field model")
    if not name:
        raise ApiError(400, "model is required") if endpoint == CHAT else ApiError(404, "model '' not found")
    if not _NAME_RE.fullmatch(name):
        raise ApiError(404, f"model '{name}' not found") if endpoint == EMBED else ApiError(400, "invalid model name")
    return name


def _keep_alive_s(value: object) -> float | None:
    match value:
        case None:
            return None
        case bool():
            raise ApiError(400, "Unsupported type: 'bool'")
        case int() | float():
            return math.inf if value < 0 else float(value)
        case str():
            try:
                return parse_duration(value)
            except ValueError as error:
                raise ApiError(400, str(error)) from error
        case _:
            raise ApiError(400, f"Unsupported type: '{type(value).__name__}'")


def check_abilities(call: Call, model: SimModel) -> None:
    """Raises ``ApiError`` where the model cannot do what is asked, or the format is none."""
    if model.embedding and call.endpoint != EMBED:
        raise ApiError(400, f'"{call.name}" does not support {call.endpoint.removeprefix("/api/")}')
    if call.body.get("think") and not model.thinking:
        raise ApiError(400, f'"{call.name}" does not support thinking')
    texts = call.body.get("input") if call.endpoint == EMBED else []
    if not isinstance(texts, (str, list, type(None))) or not all(isinstance(one, str) for one in texts or ()):
        raise ApiError(400, "invalid input type")
    form = call.body.get("format")
    if form and form != "json" and not isinstance(form, dict):
        raise ApiError(500, f'invalid format: "{form}"; expected "json" or a valid JSON Schema object')
