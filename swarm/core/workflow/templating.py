"""Fills results of earlier tasks into a request: ``{results.NAME.text}``.

``NAME`` is an entry of the task's ``depends_on``. ``.text`` (or nothing after the name) is the answer's text; ``.json`` the
answer read as JSON, ``.json.a.0.b`` a part of it; ``.list`` all answers of a task that was mapped over a list. Texts go in
as they are, all else as JSON. A reference in doubled braces, ``{{results.a.text}}``, stands for itself in single ones; other
braces are left alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import msgspec

from swarm.core.task import Task

MAX_FILLED_BYTES = 8 << 20
"""A request with everything filled in."""
_REFERENCE = re.compile(r"\{\{(results\.[^{}]+|item(?:\.[^{}]+)?)\}\}|\{(results\.[^{}]+|item(?:\.[^{}]+)?)\}")
_FENCED = re.compile(r"^\s*```[a-zA-Z]*\s*\n(.*?)\n?\s*```\s*$", re.DOTALL)
_HEAD = "results."


class TemplateError(Exception):
    """A reference that cannot be filled in; the message names it."""


class Reference(msgspec.Struct, frozen=True):
    """``results.NAME.PATH`` taken apart."""

    name: str
    path: tuple[str, ...]


def references(value: object) -> Iterator[str]:
    """The references in all texts of a request: ``results.a.text``, ``item``; escaped ones left out."""
    match value:
        case str():
            if "{results." in value or "{item" in value:
                yield from (found[2] for found in _REFERENCE.finditer(value) if found[2])
        case Mapping():
            for part in value.values():
                yield from references(part)
        case list() | tuple():
            for part in value:
                yield from references(part)
        case _:
            pass


def fill(value: Any, answer: Callable[[str], str]) -> Any:  # noqa: ANN401 - any JSON value
    """The value with ``answer(reference)`` in place of each reference in its texts. Raises ``TemplateError``."""
    room = [MAX_FILLED_BYTES]

    def one(found: re.Match[str]) -> str:
        if found[1]:
            return f"{{{found[1]}}}"
        text = answer(found[2])
        room[0] -= len(text)
        if room[0] < 0:
            raise TemplateError(f"with {{{found[2]}}} the request grows beyond {MAX_FILLED_BYTES:,} bytes")
        return text

    def walk(part: Any) -> Any:  # noqa: ANN401
        match part:
            case str():
                return _REFERENCE.sub(one, part) if "{results." in part or "{item" in part else part
            case Mapping():
                return {key: walk(inner) for key, inner in part.items()}
            case list() | tuple():
                return [walk(inner) for inner in part]
            case _:
                return part

    return walk(value)


def parse(reference: str, names: Iterable[str]) -> Reference:
    """Which of ``names`` a ``results.…`` reference means (the longest that fits), and the path. Raises ``TemplateError``."""
    rest = reference.removeprefix(_HEAD)
    fitting = [name for name in names if rest == name or rest.startswith(f"{name}.")]
    if not fitting:
        raise TemplateError(f"{{{reference}}} names nothing that the task depends on; add it to depends_on")
    name = max(fitting, key=len)
    path = tuple(rest[len(name) + 1 :].split(".")) if len(rest) > len(name) else ("text",)
    if path[0] not in ("text", "json", "list") or (path[0] != "json" and len(path) > 1):
        raise TemplateError(f"{{{reference}}}: after {name} comes .text, .json, .json.field or .list, not .{'.'.join(path)}")
    return Reference(name, path)


def text_of(result: Mapping[str, Any]) -> str:
    """The answer's text: what a model said, or what a program wrote to stdout. Raises ``TemplateError``."""
    message = result.get("message")
    said = message.get("content") if isinstance(message, Mapping) else None
    for text in (said, result.get("response"), result.get("stdout")):
        if isinstance(text, str):
            return text
    raise TemplateError("it has no text")


def json_of(text: str) -> Any:  # noqa: ANN401 - any JSON value
    """An answer as JSON; a single fence of backquotes round it is taken off. Raises ``TemplateError``."""
    fenced = _FENCED.match(text)
    try:
        return msgspec.json.decode((fenced[1] if fenced else text).encode())
    except (ValueError, RecursionError) as error:
        raise TemplateError(f"it is not JSON: {error}") from error


def part_of(value: Any, path: Iterable[str]) -> Any:  # noqa: ANN401 - any JSON value
    """The part of a JSON value that a path of fields and indices leads to. Raises ``TemplateError``."""
    for step in path:
        match value:
            case dict() if step in value:
                value = value[step]
            case list() if step.isdecimal() and int(step) < len(value):
                value = value[int(step)]
            case dict():
                raise TemplateError(f"it has no field {step!r}; it has {', '.join(map(repr, list(value)[:8])) or 'none'}")
            case list():
                raise TemplateError(f"it is a list of {len(value)}, which {step!r} is no index of")
            case _:
                raise TemplateError(f"{step!r} is asked of {type(value).__name__}, which has no fields")
    return value


def as_text(value: object) -> str:
    """A text as it is, anything else as compact JSON."""
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


ReadEnded = Callable[[str], Mapping[str, Any] | None]
"""The finished document of a task id, ``status`` set; None if there is none."""


class EarlierResults:
    """Answers one task's references."""

    def __init__(self, task: Task, read: ReadEnded) -> None:
        self._ids = {**{task_id: task_id for task_id in task.depends_on}, **task.results}
        self._read = read
        self._known: dict[str, Mapping[str, Any]] = {}

    def result(self, name: str) -> Mapping[str, Any]:
        """The result of a task that is waited for. Raises ``TemplateError`` naming one that has none."""
        task_id = self._ids[name]
        if name not in self._known:
            ended = self._read(task_id)
            who = f"{name} (task {task_id})" if name != task_id else f"task {task_id}"
            if ended is None:
                raise TemplateError(f"the result of {who} is not there (any more)")
            result = ended.get("result")
            if ended.get("status") != "completed" or not isinstance(result, Mapping):
                raise TemplateError(f"{who} has no result: it is {ended.get('status')}")
            self._known[name] = result
        return self._known[name]

    def answer(self, reference: str) -> str:
        """What stands for ``results.NAME.PATH``; any other reference stands for itself. Raises ``TemplateError``."""
        if not reference.startswith("results."):
            return f"{{{reference}}}"
        wanted = parse(reference, self._ids)
        result = self.result(wanted.name)
        try:
            return value_of(result, wanted.path)
        except TemplateError as error:
            source = self._ids[wanted.name]
            raise TemplateError(f"{{{reference}}} cannot be filled in from task {source}: {error}") from error


def value_of(result: Mapping[str, Any], path: tuple[str, ...]) -> str:
    """What a reference's path stands for in a result. Raises ``TemplateError``."""
    match path:
        case ("list",):
            if "list" not in result:
                raise TemplateError("it was not mapped over a list; use .text or .json")
            return as_text(result["list"])
        case ("json", *rest):
            return as_text(part_of(json_of(text_of(result)), rest))
        case _:
            return text_of(result)
