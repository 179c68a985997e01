"""The commands: where each is, loaded when it is first asked for, and what holds for every word given to one.

* Most runs of `swarm` need one command, so only that one is imported.
* A path may hold any bytes, but is never empty: it would mean the current directory, which nobody has asked for.
* Any other text becomes part of documents, which are UTF-8.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command, get_group

from swarm.cli.exit_codes import endings
from swarm.errors import InputError

# ruff: noqa: ANN401  (typer's classes of parameters and contexts moved house between its versions)

PLACES = {
    "run": "commands.run:run",
    "submit": "commands.run:submit",
    "results": "commands.run:results",
    "batches": "commands.batches:batches",
    "batch": "commands.batches:app",
    "notify": "commands.notify:app",
    "feed": "commands.feed:feed",
    "feeds": "commands.feed:feeds",
    "up": "commands.up:up",
    "down": "commands.up:down",
    "restart": "commands.up:restart",
    "status": "commands.status:status",
    "top": "top.command:top",
    "workers": "commands.workers:app",
    "gpus": "commands.status:gpus",
    "models": "commands.models:app",
    "explain": "commands.status:explain",
    "doctor": "commands.doctor:doctor",
    "logs": "commands.logs:logs",
    "metrics": "commands.metrics:metrics",
    "queue": "commands.queue:app",
    "config": "commands.config:app",
    "brain": "commands.up:brain",
    "worker": "commands.up:worker",
    "serve": "commands.up:serve",
    "sim": "commands.up:sim",
}
"""By name, in the order of the help: a module of this package, and in it a function or a ``typer.Typer``."""

_PATHS_AS_TEXT = frozenset({"source", "words", "images_dir"})
"""Inputs: kept as they were typed, for `-` is one of them."""


class Commands(Mapping[str, Any]):
    """All commands, as typer wants them: by name."""

    def __init__(self) -> None:
        self._made: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._made:
            self._made[name] = _make(name, PLACES[name])
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(PLACES)

    def __len__(self) -> int:
        return len(PLACES)


class Command(TyperCommand):
    """A command that takes words and paths as they were typed, and what is absent as declared.

    Typer would load a validation library for each of them, which takes longer than most commands do.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Raises ``InputError`` that names an option or argument, or typer's own errors."""
        parser: Any = self.make_parser(ctx)
        given, rest, _ = parser.parse_args(args=args)
        for param in sorted(self.get_params(ctx), key=lambda param: not param.is_eager):
            value = given.get(param.name)
            check(param, value)
            kind = getattr(getattr(param, "type_descriptor", None), "annotation", None)
            if value is None and not param.required and kind is not None:
                if param.expose_value:
                    ctx.params[param.name] = param.default
            elif kind in (str, Path) and isinstance(value, str):
                ctx.params[param.name] = kind(value)
            else:
                param.handle_parse_result(ctx, given, rest)
        if rest and not ctx.allow_extra_args:
            ctx.fail(f"Got unexpected extra argument(s) ({' '.join(rest)})")
        ctx.args = rest
        return list(rest)


class CommandGroup(TyperGroup, Command):
    """A group that takes its own options in the same way."""


class Group(CommandGroup):
    """The top of the command line: its commands are loaded late, and every way they can end becomes an exit code."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**{**attributes, "commands": None})
        self.commands: Any = Commands()

    def invoke(self, ctx: Any) -> object:
        """Run the command."""
        with endings():
            answer: object = super().invoke(ctx)
            return answer


def _make(name: str, place: str) -> Any:
    module, _, attribute = place.partition(":")
    found = getattr(import_module(f"swarm.cli.{module}"), attribute)
    if isinstance(found, typer.Typer):
        found.info.cls = CommandGroup
        for one in found.registered_commands:
            one.cls = Command
        command: Any = get_group(found)
    else:
        alone = typer.Typer(add_completion=False, rich_markup_mode=None)
        alone.command(name, cls=Command)(found)
        command = get_command(alone)
    command.name = name
    return command


def check(param: Any, value: object) -> None:
    """Look at what was typed for one option or argument. Raises ``InputError`` that names it."""
    for word in value if isinstance(value, list | tuple) else (value,):
        if isinstance(word, str):
            _check(param, word)


def _check(param: Any, word: str) -> None:
    is_path = _is_path(param)
    if not word and (is_path or param.param_type_name == "argument"):
        what = "a file or directory" if is_path else "what is meant"
        raise InputError(f"{_called(param)}: is empty", hint=f"name {what}, or leave it out")
    if not is_path and not word.isascii() and any("\ud800" <= char <= "\udfff" for char in word):
        shown = word.encode("utf-8", "backslashreplace").decode()
        raise InputError(f"{_called(param)}: {shown}: is not UTF-8", hint="only file names may hold other bytes")


def _is_path(param: Any) -> bool:
    if param.name in _PATHS_AS_TEXT:
        return True
    described = getattr(param, "type_descriptor", None)
    if described is not None:
        return described.annotation is Path
    return getattr(getattr(param, "type", None), "name", "") == "path"  # in older versions of typer


def _called(param: Any) -> str:
    if param.param_type_name == "option":
        return str(max(param.opts, key=len))
    return str(param.metavar or param.name.upper()).strip("[].")
