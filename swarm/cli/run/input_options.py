"""Turns submission options into input options and task fields, and checks each task."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from datetime import time as time_of_day
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from swarm.cli.command_options import BatchOptions, LineOptions
from swarm.clock import iso_of
from swarm.config.settings import Settings
from swarm.core.models.engines import EngineCheck
from swarm.core.models.model_options import KNOWN_OPTIONS, ModelTable, load_option_conflict, near_option, option_problem
from swarm.core.task import Endpoint, Task, TaskClass
from swarm.errors import InputError, TaskInvalid
from swarm.formats.input.problems import FieldError, did_you_mean
from swarm.formats.input.source import Format, ReadOptions, read_json
from swarm.queue.codec import validate
from swarm.views.words import parse_duration_s

T = TypeVar("T")
FORMATS: dict[str, Format] = {"openai": "openai", "jsonl": "jsonl", "csv": "csv", "text": "text"}
_EXAMPLES = "--option num_predict=64 --option temperature=0"
ENDPOINTS: dict[str, Endpoint] = {"chat": "/api/chat", "generate": "/api/generate", "embed": "/api/embed"}
_FIELD = re.compile(r"field `(?P<field>[^`]*)`: (?P<what>.*)", re.DOTALL)
_TOLD = 5
_REMEMBERED = 100


def read_options(request: LineOptions, settings: Settings | None = None) -> ReadOptions:
    """The request's reading half, checked. Raises ``InputError``.

    ``settings`` say which engines there are, as lines of OpenAI batches need to know.
    """
    endpoint = _named("--endpoint", request.endpoint.removeprefix("/api/"), ENDPOINTS) if request.endpoint else "/api/chat"
    return ReadOptions(
        format=_named("--format", request.format, FORMATS) if request.format else None,
        prompt_field=request.prompt_field,
        template=request.template,
        system=request.system,
        model=request.model,
        endpoint=endpoint,
        options=generation_options(request.option or ()),
        limit=request.limit if isinstance(request, BatchOptions) else None,
        images_dir=request.images_dir if isinstance(request, BatchOptions) else None,
        schema=None if request.schema is None else _schema(request.schema),
        raw_completions=EngineCheck(settings or Settings()).raw_completions,
    )


def check_options(settings: Settings, request: LineOptions) -> None:
    """Whether ``--option`` can be meant: else each single item would fail of it. Raises ``InputError``."""
    asked = generation_options(request.option or ())
    if request.model is None or not asked:
        return
    conflict = load_option_conflict(request.model, asked, ModelTable(settings.models).of(request.model).options)
    if conflict is not None:
        raise InputError(f"--option: {conflict.removeprefix('request.options.')}")


def _named(option: str, text: str, known: Mapping[str, T]) -> T:
    if text not in known:
        raise InputError(f"{option}: {text!r} is not known{did_you_mean(text, known)}")
    return known[text]


def generation_options(pairs: Iterable[str]) -> dict[str, Any]:
    """``num_predict=64`` as a number, ``stop=END`` as a list of one text: a value that is JSON counts as such.

    Raises ``InputError`` for what no server would take and for a misspelt name.
    """
    found: dict[str, Any] = {}
    for pair in pairs:
        name, separator, text = pair.partition("=")
        if not separator or not name.strip():
            raise InputError(f"--option {pair!r}: no NAME=VALUE", hint=_EXAMPLES)
        name = name.strip()
        meant = near_option(name)
        if meant is not None:
            raise InputError(f"--option {name}: there is no such option", hint=f"did you mean {meant}?")
        value = _value(text)
        found[name] = [value] if name == "stop" and isinstance(value, str) else value
        problem = option_problem(name, found[name])
        if problem is not None:
            raise InputError(f"--option {pair}: {name} {problem}", hint=_EXAMPLES)
    return found


def _value(text: str) -> object:
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return text


def _schema(path: Path) -> dict[str, Any]:
    schema = read_json(str(path), f"--schema {path}", dict[str, Any])
    if not schema:
        raise InputError(f"--schema {path}: is no JSON Schema", hint='it looks like {"type": "object", "properties": {…}}')
    from swarm.worker.executors.structured_output import CHECKS_SCHEMAS, schema_problem

    if not CHECKS_SCHEMAS:
        raise InputError("--schema needs the package jsonschema", hint="pip install 'gpu-swarm[schema]'")
    problem = schema_problem(schema)
    if problem is not None:
        raise InputError(f"--schema {path}: is no valid JSON Schema: {problem}")
    return schema


def task_fields(request: LineOptions, now_s: float | None = None) -> dict[str, Any]:
    """``priority``, ``not_before``, ``timeout_s``, ``max_attempts``, ``cache`` as far as asked for. Raises ``InputError``.

    ``now_s``: seconds since the epoch from which durations and times of day count.
    """
    given = {name: getattr(request, name) for name in ("priority", "max_attempts", "cache")}
    fields = {name: value for name, value in given.items() if value is not None}
    if isinstance(request, BatchOptions) and request.not_before is not None:
        fields["not_before"] = moment(request.not_before, time.time() if now_s is None else now_s)
    if request.timeout is not None:
        fields["timeout_s"] = _timeout_s(request.timeout)
    return fields


def with_defaults(document: Mapping[str, Any], defaults: Mapping[str, Any]) -> Mapping[str, Any]:
    """The document with fields that it does not say itself: a line's own word wins."""
    missing = {name: value for name, value in defaults.items() if name not in document}
    return {**document, **missing} if missing else document


def moment(text: str, now_s: float) -> str:
    """ISO 8601 with offset for ``10m``, ``22:00`` (the next one), ``2026-02-07T21:05`` (local unless it says otherwise).

    One that has passed already is as good as none and comes back as it is. Raises ``InputError``.
    """
    hint = "a time to wait: 10m, 1h30m; a time of day: 22:00; or a date and time: 2026-02-07T21:05"
    try:
        return iso_of(now_s + parse_duration_s(text))
    except InputError:
        pass  # no duration, then a time
    except (OverflowError, ValueError, OSError) as error:
        raise InputError(f"--not-before {text!r} is too far away", hint=hint) from error
    try:
        if "-" not in text and ":" in text:
            return iso_of(_next(time_of_day.fromisoformat(text.strip()), now_s))
        return iso_of(datetime.fromisoformat(text.strip()).timestamp())
    except (ValueError, OverflowError, OSError) as error:
        raise InputError(f"--not-before {text!r} is no time and no duration", hint=hint) from error


def _next(at: time_of_day, now_s: float) -> float:
    if at.tzinfo is not None:
        raise ValueError("a time of day with an offset")
    now = datetime.fromtimestamp(now_s)  # noqa: DTZ006 - a user means the local clock
    today = datetime.combine(now.date(), at)
    return (today if today > now else today + timedelta(days=1)).timestamp()


def _timeout_s(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = parse_duration_s(text)
    if not 0 < seconds < float("inf"):
        raise InputError(f"--timeout {text}: must be more than 0", hint="seconds, or a duration: --timeout 90, --timeout 5m")
    return seconds


class LineCheck:
    """What a line must be beyond its format, by the configuration and by the queue.

    Call it with each document. What it found unknown, though harmless, is said once by ``say_unknown``.
    """

    def __init__(self, settings: Settings) -> None:
        self._models = ModelTable(settings.models)
        self._engines = EngineCheck(settings)
        self._unknown: dict[str, None] = {}

    def __call__(self, document: Mapping[str, Any]) -> Task:
        """The task that the document describes, under a made-up id.

        Raises ``FieldError``: what would be refused at submission, or would fail of its options when it runs.
        """
        try:
            task = validate({**document, "task_id": "checked"})
        except TaskInvalid as error:
            raise _field_error(error) from error
        if task.request.get("shift") is False:
            raise FieldError("request.shift", "false would make the server load the model again; leave it out")
        model = task.model or ""
        if task.task_class is TaskClass.LLM and (problem := self._engines.problem(task)):
            raise FieldError(*problem)
        options = task.request.get("options")
        if options:
            conflict = load_option_conflict(model, options, self._models.of(model).options)
            if conflict is not None:
                raise FieldError("options", conflict.removeprefix("request.options."))
            if len(self._unknown) < _REMEMBERED:
                self._unknown.update(dict.fromkeys(name for name in options if name not in KNOWN_OPTIONS))
        return task

    def say_unknown(self) -> None:
        """A note on standard error about options that no server may know; each is said once."""
        if not self._unknown:
            return
        names = ", ".join(list(self._unknown)[:_TOLD]) + (" …" if len(self._unknown) > _TOLD else "")
        self._unknown.clear()
        print(f"note: not known here: options {names}; a model server ignores those it does not know", file=sys.stderr)


def _field_error(error: TaskInvalid) -> FieldError:
    """The queue's refusal as a finding about a line."""
    found = _FIELD.fullmatch(error.message)
    return FieldError(found["field"], found["what"]) if found else FieldError("", error.message)
