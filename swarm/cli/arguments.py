"""What holds for every word of a command line, before any command sees it.

A path may hold any bytes, but is never empty: it would mean the current directory, which nobody has asked for. Any other
text becomes part of documents, which are UTF-8.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from swarm.errors import InputError

_PATHS_AS_TEXT = frozenset({"source", "words", "images_dir"})
"""Inputs: kept as they were typed, for `-` is one of them."""


def guard(command: Any) -> None:  # noqa: ANN401  (the class moved house between versions of typer)
    """Have every word that is given to a command, or to one in a group, looked at as it was typed."""
    for param in command.params:
        if "consume_value" not in vars(param):
            _guard_param(param)
    for inner in getattr(command, "commands", {}).values():
        guard(inner)


def _guard_param(param: Any) -> None:  # noqa: ANN401
    taken = param.consume_value

    def consume_value(ctx: object, opts: Mapping[str, object]) -> object:
        check(param, opts.get(param.name))
        return taken(ctx, opts)

    param.consume_value = consume_value


def check(param: Any, value: object) -> None:  # noqa: ANN401
    """Raises ``InputError`` that names the option or argument."""
    words = value if isinstance(value, list | tuple) else (value,)
    for word in words:
        if isinstance(word, str | Path):
            _check(param, str(word))


def _check(param: Any, word: str) -> None:  # noqa: ANN401
    is_path = _is_path(param)
    if not word and (is_path or param.param_type_name == "argument"):
        what = "a file or directory" if is_path else "what is meant"
        raise InputError(f"{_called(param)}: is empty", hint=f"name {what}, or leave it out")
    if not is_path and not word.isascii() and any("\ud800" <= char <= "\udfff" for char in word):
        shown = word.encode("utf-8", "backslashreplace").decode()
        raise InputError(f"{_called(param)}: {shown}: is not UTF-8", hint="only file names may hold other bytes")


def _is_path(param: Any) -> bool:  # noqa: ANN401
    if param.name in _PATHS_AS_TEXT:
        return True
    described = getattr(param, "type_descriptor", None)
    if described is not None:
        return described.annotation is Path
    return getattr(getattr(param, "type", None), "name", "") == "path"  # in older versions of typer


def _called(param: Any) -> str:  # noqa: ANN401
    if param.param_type_name == "option":
        return str(max(param.opts, key=len))
    return str(param.metavar or param.name.upper()).strip("[].")
