"""What the columns of a plain record mean: some are task fields, others make its request.

* A column named like a task field sets how its item is run, and is no part of what is asked.
* A request is made from a template, a named column, ``messages`` or ``prompt``.
* A template is filled with columns: ``Translate {text} to {lang}``; ``{{`` and ``}}`` stand for braces.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Literal, get_args

import msgspec

from swarm.core.models.model_options import KNOWN_OPTIONS, are_options, option_problems
from swarm.core.task import Endpoint, MapSpec, ModelText, PositiveSeconds, Priority, session_fault
from swarm.errors import InputError
from swarm.formats.input.problems import FieldError, did_you_mean, kind, need_list, need_object, need_text
from swarm.formats.input.source import ReadOptions
from swarm.formats.tasks.openai_batch import map_messages

CONTENT_FIELDS = ("custom_id", "name", "session", "depends_on", "on_dependency_failure", "map")
"""Fields that belong to an item's identity; the others only say when and how often it runs."""


class TaskFields(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """The task fields a line may set, with the constraints of the task itself."""

    custom_id: Annotated[str, msgspec.Meta(min_length=1)] | None = None
    name: str | None = None
    task_class: Literal["llm"] | None = None
    metadata: dict[str, Any] | None = None
    priority: Priority | None = None
    model: ModelText | None = None
    endpoint: Endpoint | None = None
    request: dict[str, Any] | None = None
    options: dict[str, Any] | None = None
    """Generation options in Ollama's words; a column of this name that holds anything else is data."""
    depends_on: list[str] | None = None
    map: MapSpec | None = None
    on_dependency_failure: Literal["fail", "run"] | None = None
    session: str | None = None
    not_before: str | None = None
    timeout_s: PositiveSeconds | None = None
    max_attempts: Annotated[int, msgspec.Meta(ge=1, le=100)] | None = None
    notify: list[str] | None = None
    cache: bool | None = None
    images: list[str] | None = None
    """Paths; see ``swarm.formats.input.images``."""


FIELD_NAMES = frozenset(TaskFields.__struct_fields__)
_LISTS = ("depends_on", "notify", "images")
_OBJECTS = ("metadata", "request", "map")
_CHOICES = {
    "endpoint": get_args(Endpoint),
    "on_dependency_failure": ("fail", "run"),
    "task_class": ("llm",),
}
_AT = re.compile(r"^(?P<what>.*) - at `\$\.?(?P<field>.*)`$", re.DOTALL)


def task_fields(record: Mapping[str, Any], *, text_only: bool, prompt_field: str | None = None) -> dict[str, Any]:
    """The task fields among a record's columns, checked; null means absent, and the prompt's own column is none of them.

    ``text_only`` (CSV): numbers, lists and objects are written as text, and an empty cell means absent.
    Raises ``FieldError``.
    """
    given = {name: value for name in FIELD_NAMES & record.keys() if (value := record[name]) is not None}
    given.pop(prompt_field or "", None)
    if "options" in given and not _means_options(given, text_only=text_only):
        del given["options"]
    if text_only:
        given = {name: _from_text(name, value) for name, value in given.items() if value != ""}
    if not given:
        return given
    for name in _LISTS:
        value = given.get(name)
        if isinstance(value, str):
            given[name] = [part.strip() for part in value.split(",") if part.strip()]
    try:
        fields = msgspec.convert(given, TaskFields, strict=not text_only)
    except msgspec.ValidationError as error:
        found = _AT.match(str(error))
        what, field = (found["what"], found["field"]) if found else (str(error), "")
        if field in _CHOICES:
            what += f"; it is one of {', '.join(_CHOICES[field])}"
        advice = f"{what}; a column of this name sets the task's own field, so rename it if it is data"
        raise FieldError(field, advice) from error
    if fields.session is not None and (fault := session_fault(fields.session)) is not None:
        raise FieldError("session", fault)
    if fields.not_before is not None:
        _check_time(fields.not_before)
    checked: dict[str, Any] = msgspec.to_builtins(fields)
    if fields.map is not None and fields.map.over not in checked.setdefault("depends_on", []):
        checked["depends_on"].append(fields.map.over)  # it cannot but wait for that
    return checked


def _means_options(given: dict[str, Any], *, text_only: bool) -> bool:
    """Whether the column ``options`` is Ollama's; its text (CSV) is replaced by the object it stands for."""
    value = given["options"]
    if text_only and isinstance(value, str) and value.lstrip().startswith("{"):
        try:
            value = msgspec.json.decode(value)
        except (msgspec.DecodeError, RecursionError) as error:
            if any(name in value for name in KNOWN_OPTIONS):
                raise FieldError("options", f"must be JSON: {error}") from error
    given["options"] = value
    return are_options(value)


def _from_text(name: str, value: str) -> object:
    if name in _OBJECTS or (name in _LISTS and value.startswith("[")):
        try:
            return msgspec.json.decode(value)
        except (msgspec.DecodeError, RecursionError) as error:
            raise FieldError(name, f"must be JSON: {error}") from error
    return value


def _check_time(value: str) -> None:
    try:
        moment = datetime.fromisoformat(value)
    except ValueError as error:
        raise FieldError("not_before", f"no time: {value!r}; write it like 2026-02-07T21:05:50+01:00") from error
    if moment.tzinfo is None:
        raise FieldError("not_before", f"{value!r} has no offset; write it like 2026-02-07T21:05:50+01:00 or …Z")


_PIECE = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")


class Template(msgspec.Struct, frozen=True):
    """A template cut into pieces: texts and, in between, columns."""

    texts: tuple[str, ...]
    """One more than ``columns``."""
    columns: tuple[str, ...]

    def fill(self, record: Mapping[str, Any]) -> str:
        """The prompt for one record. Raises ``FieldError`` for a column that is missing or null."""
        parts = [self.texts[0]]
        for column, text in zip(self.columns, self.texts[1:], strict=True):
            parts.append(_as_text(record, column))
            parts.append(text)
        return "".join(parts)


def compile_template(text: str) -> Template:
    """Cut ``text`` into pieces. Raises ``InputError`` for a lone brace, an empty name, or no column at all."""
    texts, columns, literal, end = [], [], "", 0
    for found in _PIECE.finditer(text):
        literal += text[end : found.start()]
        end = found.end()
        piece, column = found.group(0), found.group(1)
        if piece in {"{{", "}}"}:
            literal += piece[0]
        elif column is None or not column.strip():
            raise InputError(
                f"template: {'an empty {}' if column is not None else 'a lone ' + piece} at character {found.start() + 1}",
                hint="write {column} for a column, {{ and }} for braces",
            )
        else:
            texts.append(literal)
            columns.append(column.strip())
            literal = ""
    if not columns:
        raise InputError("template: names no column, so every prompt would be the same", hint="write {column} for a column")
    return Template((*texts, literal + text[end:]), tuple(columns))


def _as_text(record: Mapping[str, Any], column: str) -> str:
    if column not in record:
        raise FieldError(column, f"the template asks for a column that is not here{did_you_mean(column, record)}")
    match record[column]:
        case str() as text:
            return text
        case None:
            raise FieldError(column, "the template asks for it, but it is null")
        case value:
            return msgspec.json.encode(value).decode()


_OURS = ("model", "stream", "keep_alive")


def build_request(
    record: Mapping[str, Any],
    options: ReadOptions,
    template: Template | None,
    *,
    endpoint: Endpoint,
    extra: Mapping[str, Any],
    own: Mapping[str, Any],
) -> tuple[dict[str, Any], str | None]:
    """The request for one record, and the column the prompt came from (None with a template).

    ``extra`` is the line's own ``request`` field, ``own`` its ``options``; they win over the options of the command line.
    Raises ``FieldError``.
    """
    if template is not None:
        column, value = None, template.fill(record)
        if not value.strip():
            raise FieldError("", "the filled template is empty")
    else:
        column = _prompt_column(record, options)
        value = record[column]
    request = _with_prompt(value, column or "template", endpoint, options.system)
    if options.options or extra or own:
        _merge(request, options.options, extra, own)
    if options.schema is not None:
        request.setdefault("format", options.schema)
    return request, column


def _prompt_column(record: Mapping[str, Any], options: ReadOptions) -> str:
    wanted = options.prompt_field
    if wanted is not None:
        if wanted not in record:
            raise FieldError(wanted, f"the prompt's column is not here{did_you_mean(wanted, record)}")
        return wanted
    has_prompt, has_messages = "prompt" in record, "messages" in record
    if has_prompt and has_messages:
        raise FieldError("", "has both 'prompt' and 'messages'; choose one with --prompt-field")
    if not has_prompt and not has_messages:
        here = did_you_mean("prompt", record)
        raise FieldError("", f"no column 'prompt' or 'messages'{here}; name the prompt's column with --prompt-field")
    return "prompt" if has_prompt else "messages"


def _with_prompt(value: object, column: str, endpoint: Endpoint, system: str | None) -> dict[str, Any]:
    # An empty prompt is no request to a model server but the order to load the model.
    match endpoint, value:
        case "/api/chat", str():
            messages: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
            messages.append({"role": "user", "content": need_text(value, column)})
            return {"messages": messages}
        case "/api/chat", list():
            messages = map_messages(value, column)
            if system and messages[0]["role"] != "system":
                messages.insert(0, {"role": "system", "content": system})
            return {"messages": messages}
        case "/api/generate", str():
            return {"prompt": need_text(value, column)} | ({"system": system} if system else {})
        case "/api/embed", str():
            return {"input": need_text(value, column)}
        case "/api/embed", list():
            return {"input": [need_text(part, f"{column}[{i}]") for i, part in enumerate(need_list(value, column))]}
        case _:
            wanted = "a text" if endpoint == "/api/generate" else "a text or a list"
            raise FieldError(column, f"must be {wanted} for {endpoint}, is {kind(value)}")


def _merge(request: dict[str, Any], options: Mapping[str, Any], extra: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    for name in extra:
        if name in _OURS or name in request:
            raise FieldError(f"request.{name}", "is set by swarm itself; use the columns 'model' and 'prompt' or 'messages'")
    inner = need_object(extra.get("options") or {}, "request.options")
    _check_options(inner, "request.options")
    _check_options(own, "options")
    for name in own.keys() & inner.keys():
        if own[name] != inner[name]:
            raise FieldError(f"options.{name}", f"is {own[name]!r}, and request.options says {inner[name]!r}; leave one out")
    request.update(extra)
    request.pop("options", None)
    if options or inner or own:
        request["options"] = {**options, **inner, **own}


def _check_options(options: Mapping[str, Any], field: str) -> None:
    for name, problem in option_problems(options):
        raise FieldError(f"{field}.{name}", problem)
