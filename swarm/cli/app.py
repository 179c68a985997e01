"""The command-line application: where each command is, and how its arguments are read.

* Importing this must stay cheap: `swarm --help` answers in under 0.2 s, and loads no command.
* Most runs of `swarm` need one command, so only that one is imported.
* A path may hold any bytes, but is never empty: it would mean the current directory, which nobody has asked for.
* Any other text becomes part of documents, which are UTF-8.
"""

# ruff: noqa: ANN401  (typer's classes of parameters and contexts moved house between its versions)

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command, get_group

from swarm import __version__
from swarm.cli.exit_codes import endings
from swarm.errors import InputError

COMMANDS = {
    "run": ("commands.run:run", "The main job: submit, work, collect."),
    "submit": ("commands.run:submit", "Submit tasks to the queue and return."),
    "results": ("commands.run:results", "Write the results of a batch so far."),
    "batches": ("commands.batches:batches", "All batches: progress, ETA, tokens, time on cards."),
    "batch": ("commands.batches:app", "One batch: show, cancel, retry-failed, export."),
    "notify": ("commands.notify:app", "Notifications: list, retry."),
    "feed": ("commands.feed:feed", "Submit a source of any length, a few tasks at a time."),
    "feeds": ("commands.feed:feeds", "All feeds: progress, and whether a feeder runs."),
    "up": ("commands.up:up", "Start brain, model servers and workers; restart what dies."),
    "down": ("commands.up:down", "Stop everything that runs on this queue."),
    "restart": ("commands.up:restart", "Restart single processes of the running swarm."),
    "status": ("commands.status:status", "Alarms, cards, workers, queue, throughput on one screen."),
    "top": ("top.live:top", "Live view of the swarm, with keys to sort, open, retry, cancel."),
    "workers": ("commands.status:workers_app", "Workers: state, model, slots, current or missing work."),
    "gpus": ("commands.status:gpus", "Cards: memory, load, temperature, power, worker."),
    "models": ("commands.status:models_app", "Models: where loaded, tasks waiting, speed, idle time."),
    "explain": ("commands.status:explain", "Why a task waits, a worker idles, a model is loaded where it is."),
    "doctor": ("commands.doctor:doctor", "Find what is wrong: findings, their evidence, what to do."),
    "logs": ("commands.logs:logs", "Show the logs of all processes, merged by time."),
    "metrics": ("commands.status:metrics", "Prometheus metrics: tasks, workers, models, cards, brain."),
    "queue": ("commands.queue:app", "Tasks: count, list, show, retry, cancel."),
    "config": ("commands.config:app", "Configuration: show, check, schema."),
    "brain": ("commands.up:brain", "Run the brain alone, in the foreground."),
    "worker": ("commands.up:worker", "Run one worker alone, in the foreground."),
    "serve": ("commands.up:serve", "Run one worker's model server alone, in the foreground."),
    "sim": ("commands.up:sim", "Simulated parts: a model server without models or GPU."),
}
"""By name, in the order of the help: where it is in this package (a function or a ``typer.Typer``), and its line there."""
_PATHS_AS_TEXT = frozenset({"source", "words", "images_dir"})
"""Inputs: kept as they were typed, for `-` is one of them."""


class Commands(Mapping[str, Any]):
    """All commands, as typer wants them: by name."""

    def __init__(self) -> None:
        self._made: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._made:
            self._made[name] = _make(name, COMMANDS[name][0])
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(COMMANDS)

    def __len__(self) -> int:
        return len(COMMANDS)


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

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002
        """List the commands without loading them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])

    def invoke(self, ctx: Any) -> object:
        """Run the command."""
        with endings():
            answer: object = super().invoke(ctx)
            return answer


def _make(name: str, place: str) -> Any:
    from swarm.cli.command_options import spread

    module, _, attribute = place.partition(":")
    found: Any = getattr(import_module(f"swarm.cli.{module}"), attribute)
    is_group = isinstance(found, typer.Typer)
    group: Any = found if is_group else typer.Typer(add_completion=False, rich_markup_mode=None)
    if is_group:
        group.info.cls = CommandGroup
    else:
        group.command(name)(found)
    for one in group.registered_commands:
        one.cls, one.callback = Command, spread(one.callback)
    if group.registered_callback is not None:
        group.registered_callback.callback = spread(group.registered_callback.callback)
    command: Any = get_group(group) if is_group else get_command(group)
    command.name = name
    return command


def check(param: Any, value: object) -> None:
    """Check what was typed for one option or argument. Raises ``InputError`` that names it."""
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


app = typer.Typer(
    name="swarm",
    cls=Group,
    rich_markup_mode=None,  # rich's help would cost twice the time of all else
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="""Batches of prompts through local models: one model server and one worker per GPU, tasks as files.

    \b
    Start here, without any GPU:
      swarm run prompts.jsonl -o out.jsonl --model llama3.2:3b --simulate 4

    \b
    Exit codes: 0 success, 1 some tasks failed, 2 usage or configuration,
    3 no swarm is running or reachable, 130 interrupted (run again to resume).
    """,
)


def _version(asked: bool) -> None:
    if asked:
        print(f"swarm {__version__}")
        raise typer.Exit


@app.callback()
def main(
    _version_asked: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Options before a command."""
