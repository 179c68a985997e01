"""Reads request bodies, and refuses them in Ollama's words."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

import msgspec

from swarm.core.models.sim_model import SimModel
from swarm.simulator.http import ApiError
from swarm.simulator.ollama.environment import parse_duration

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


_INTEGERS = ("num_ctx", "num_batch", "num_gpu", "main_gpu", "num_thread", "draft_num_predict")
_OTHER_INTEGERS = ("num_predict", "top_k", "seed", "repeat_last_n", "num_keep")
_FLOATS = ("temperature", "top_p", "min_p", "typical_p", "repeat_penalty", "presence_penalty", "frequency_penalty")


class LoadOptions(msgspec.Struct, frozen=True):
    """The options that are fixed when a model is loaded; a request with others makes it load again."""

    num_ctx: int
    num_batch: int = 512
    num_gpu: int | None = None
    main_gpu: int = 0
    num_thread: int | None = None
    draft_num_predict: int | None = None
    use_mmap: bool | None = None
    shift: bool = True


def load_options(options: dict[str, Any], shift: bool | None, default_ctx: int) -> LoadOptions:  # noqa: FBT001
    """The load-time part of a request's options; fractions are cut. Raises ``ApiError`` 500 for a wrong type."""
    kinds = {"integer": (*_INTEGERS, *_OTHER_INTEGERS), "float32": _FLOATS}
    for kind, name in ((kind, name) for kind, names in kinds.items() for name in names):
        value = options.get(name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float))):
            raise ApiError(500, f'option "{name}" must be of type {kind}')
    if not isinstance(options.get("stop", []), list):
        raise ApiError(500, 'option "stop" must be of type array')
    fixed = {name: int(options[name]) for name in _INTEGERS if options.get(name) is not None}
    if fixed.get("num_gpu", 0) < 0:
        del fixed["num_gpu"]
    fixed.setdefault("num_ctx", default_ctx)
    return LoadOptions(**fixed, use_mmap=options.get("use_mmap"), shift=shift is not False)
