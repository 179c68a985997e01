"""One live request, read and checked: the same request means the same here and in a batch.

Raises ``ApiError`` (400) that names the field.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from swarm.config.settings import Settings
from swarm.core.live.routing import prefix_keys
from swarm.core.models.engines import EngineCheck
from swarm.core.models.model_options import OF_OTHERS, ModelTable, load_option_conflict, option_problems
from swarm.core.task import MODEL_PATTERN, Endpoint, Task, TaskClass, canonical_model
from swarm.formats.input.problems import FieldError, need_bool, need_object, need_text
from swarm.formats.tasks.openai_batch import map_body
from swarm.http.answers import ApiError
from swarm.queue.layout import new_id

_MODEL = re.compile(MODEL_PATTERN)
_NOT_SENT = ("model", "stream", "keep_alive")
"""Of a request in Ollama's form: the worker sets them. How long a model stays is the swarm's to decide."""


class LiveAsk(msgspec.Struct, frozen=True, kw_only=True):
    """A request in Ollama's form, for whichever worker takes it."""

    id: str
    client: str
    endpoint: Endpoint
    request: dict[str, Any]
    """The native body with ``model``, without ``stream``."""
    model: str
    """As it was asked for."""
    notes: dict[str, Any] = {}
    """What the way back needs to know besides."""

    @property
    def canonical(self) -> str:
        """The model's canonical name."""
        return canonical_model(self.model)

    def keys(self) -> tuple[int, ...]:
        """Of its prompt's beginning."""
        return prefix_keys(self.canonical, self.endpoint, self.request)


def read_object(raw: bytes) -> dict[str, Any]:
    """The body of a request, which must be one JSON object."""
    try:
        body = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise ApiError(400, f"the body of the request is no JSON: {error}") from error
    if not isinstance(body, dict):
        raise ApiError(400, "the body of the request must be a JSON object")
    return body


def model_in(body: Mapping[str, Any]) -> str:
    """The model that is asked for, as written."""
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise ApiError(400, "model is missing: it must be the name of a model", param="model", hint="/v1/models lists them")
    if not _MODEL.search(model):
        raise ApiError(400, f"model: {model[:200]!r} is no model name", param="model", hint="write it like llama3.2:3b")
    return model


def flag(body: Mapping[str, Any], name: str, *, default: bool) -> bool:
    """A field that is true or false; null is as good as absent."""
    value = body.get(name)
    try:
        return default if value is None else need_bool(value, name)
    except FieldError as error:
        raise refused(error) from error


def refused(error: FieldError) -> ApiError:
    """A finding about a field as the answer to the client."""
    field = error.field.removeprefix("body.")
    return ApiError(400, f"{field}: {error.message}" if field else error.message, param=field or None)


class AskReader:
    """Reads requests as the configuration means them. Only asked of models that some worker has."""

    def __init__(self, settings: Settings) -> None:
        self._engines = EngineCheck(settings)
        self._models = ModelTable(settings.models)

    def openai(self, url: str, body: Mapping[str, Any], client: str) -> LiveAsk:
        """Of one of OpenAI's endpoints; whether it is streamed is the caller's."""
        model = model_in(body)
        asked = {name: value for name, value in body.items() if name not in ("stream", "stream_options")}
        try:
            mapped = map_body(url, asked, raw=self._engines.raw_completions(model))
        except FieldError as error:
            raise refused(error) from error
        return self._checked(client, model, mapped.endpoint, mapped.request, mapped.notes)

    def ollama(self, endpoint: Endpoint, body: Mapping[str, Any], client: str) -> LiveAsk:
        """Of one of Ollama's own endpoints."""
        model = model_in(body)
        request = {name: value for name, value in body.items() if name not in _NOT_SENT and value is not None}
        try:
            if "options" in request:
                need_object(request["options"], "options")
            if endpoint == "/api/generate" and "prompt" in request and not isinstance(request["prompt"], str):
                need_text(request["prompt"], "prompt")
        except FieldError as error:
            raise refused(error) from error
        return self._checked(client, model, endpoint, request, {})

    def _checked(
        self, client: str, model: str, endpoint: Endpoint, request: dict[str, Any], notes: dict[str, Any]
    ) -> LiveAsk:
        """What would be refused at submission of a task, or fail of its options when it runs, is refused here."""
        options = request.get("options") or {}
        for name, problem in option_problems({name: value for name, value in options.items() if name not in OF_OTHERS}):
            raise ApiError(400, f"options.{name}: {problem}", param=f"options.{name}")
        if options and (conflict := load_option_conflict(model, options, self._models.of(model).options)):
            raise ApiError(400, conflict.removeprefix("request."), param="options", code="load_option")
        if request.get("shift") is False:
            raise ApiError(400, "shift: false would make the server load the model again; leave it out", param="shift")
        if self._engines.kinds(model) != {"ollama"}:
            self._check_engines(model, endpoint, request)
        native = {**request, "model": model}
        return LiveAsk(id=new_id(), client=client, endpoint=endpoint, request=native, model=model, notes=notes)

    def _check_engines(self, model: str, endpoint: Endpoint, request: dict[str, Any]) -> None:
        task = Task(task_id="live", task_class=TaskClass.LLM, model=model, endpoint=endpoint, request=request)
        if problem := self._engines.problem(task):
            field = problem[0].removeprefix("request.")
            raise ApiError(400, f"{field}: {problem[1]}", param=field)
