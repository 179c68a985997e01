"""Values of options, as typer would make them, without what typer needs to do so.

Its newer versions load a validation library for every option that has a value, or none: longer than most commands take. What
needs no validation (words, paths, small numbers, nothing at all) is taken as it is; whatever else, and all that is
wrong, is left to typer, so that what is accepted and what is said stay the same.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

LEFT_TO_TYPER = object()
_DIGITS = 9


def lighten(command: Any) -> None:  # noqa: ANN401  (the class moved house between versions of typer)
    """Make the parameters of a command, or of a group and all in it, take plain values as they are."""
    by_typer = command.get_params

    def get_params(ctx: object) -> list[Any]:
        params: list[Any] = by_typer(ctx)  # the option that asks for help is among them, and made only now
        for param in params:
            if "process_value" not in vars(param) and hasattr(param, "type_descriptor"):  # older versions need no help
                _lighten_param(param)
        return params

    command.get_params = get_params
    for inner in getattr(command, "commands", {}).values():
        lighten(inner)


def _lighten_param(param: Any) -> None:  # noqa: ANN401
    by_typer = param.process_value

    def process_value(ctx: object, value: object) -> object:
        plain = plain_value(param, value)
        if plain is LEFT_TO_TYPER:
            return by_typer(ctx, value)
        return plain if param.callback is None else param.callback(ctx, param, plain)

    param.process_value = process_value


def plain_value(param: Any, value: object) -> object:  # noqa: ANN401
    """The value as the command gets it, or a mark that it is left to typer."""
    rules = param.type_descriptor.parameter_info
    many = getattr(param, "multiple", False) or param.nargs == -1
    if value is None and not param.required:
        return () if many else None
    if value is None or rules.parser is not None or getattr(rules, "click_type", None) is not None:
        return LEFT_TO_TYPER
    if many:
        return _words(value) if param.type_descriptor.annotation == list[str] else LEFT_TO_TYPER
    return _one(value, param.type_descriptor.annotation, rules)


def _one(value: object, kind: object, rules: Any) -> object:  # noqa: ANN401
    if type(value) is str and kind is int and _is_plain_number(value):
        value = int(value)
    match value:
        case int() | float() if kind is type(value) and kind is not bool:
            return _number(value, rules)
        case str() if kind is Path:
            return _path(value, rules)
        case str() if kind is str:
            return value
        case _:
            return LEFT_TO_TYPER


def _words(value: object) -> object:
    if isinstance(value, list | tuple) and value and all(type(word) is str for word in value):
        return list(value)
    return LEFT_TO_TYPER


def _is_plain_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= _DIGITS


def _number(value: float, rules: Any) -> object:  # noqa: ANN401
    inside = (rules.min is None or value >= rules.min) and (rules.max is None or value <= rules.max)
    return value if inside else LEFT_TO_TYPER


def _path(text: str, rules: Any) -> object:  # noqa: ANN401
    asked = rules.exists or rules.writable or rules.resolve_path or rules.path_type is not None
    if asked or not (rules.file_okay and rules.dir_okay):
        return LEFT_TO_TYPER
    return Path(text) if os.access(text, os.R_OK) or not os.path.exists(text) else LEFT_TO_TYPER
