"""Input columns named like task fields: such a column sets how its item is run, and is no part of what is asked."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Literal, get_args

import msgspec

from swarm.core.model_options import KNOWN_OPTIONS, are_options
from swarm.core.task import Endpoint, MapSpec, ModelText, PositiveSeconds, Priority, session_fault
from swarm.formats.input.problems import FieldError

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
