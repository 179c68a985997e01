"""Turns plain records into Ollama requests.

A request is made from a template, a named column, ``messages`` or ``prompt``.
A template is filled with columns: ``Translate {text} to {lang}``; ``{{`` and ``}}`` stand for braces.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from swarm.core.model_options import option_problems
from swarm.core.task import Endpoint
from swarm.errors import InputError
from swarm.formats.input.problems import FieldError, did_you_mean, kind, need_list, need_object, need_text
from swarm.formats.input.source import ReadOptions
from swarm.formats.openai.messages import map_messages

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
