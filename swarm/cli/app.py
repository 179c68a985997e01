"""The command-line application: where each command is, how its arguments are read, and the exit code that an error gives.

* Importing this must stay cheap: `swarm --help` answers in under 0.2 s, and loads no command.
* Most runs of `swarm` need one command, so only that one is imported.
* A path may hold any bytes, but is never empty: it would mean the current directory, which nobody has asked for.
* Any other text becomes part of documents, which are UTF-8.
"""

# ruff: noqa: ANN401  (typer's classes of parameters and contexts moved house between its versions)

from __future__ import annotations

import errno
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command, get_group

from swarm import __version__
from swarm.errors import EXIT_INTERRUPTED, EXIT_OK, EXIT_USAGE, InputError, SwarmError
from swarm.plain_text import lines
from swarm.stdio import OutputLost, forget_output

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
    "nodes": ("commands.nodes:app", "Machines whose cards are used: phase, cards, workers, versions."),
    "models": ("commands.status:models_app", "Models: where loaded, tasks waiting, memory, speed."),
    "explain": ("commands.status:explain", "Why a task waits, a worker idles, a model is loaded where it is."),
    "doctor": ("commands.doctor:doctor", "Find what is wrong: findings, their evidence, what to do."),
    "logs": ("commands.logs:logs", "Show the logs of all processes, merged by time."),
    "metrics": ("commands.status:metrics", "Prometheus metrics: tasks, workers, models, cards, brain."),
    "queue": ("commands.queue:app", "Tasks: count, list, show, retry, cancel."),
    "config": ("commands.config:app", "Configuration: show, check, schema."),
    "token": ("commands.token:app", "Tokens of the HTTP server: create, list, revoke."),
    "brain": ("commands.up:brain", "Run the brain alone, in the foreground."),
    "worker": ("commands.up:worker", "Run one worker alone, in the foreground."),
    "http": ("commands.http:http", "Run the HTTP server alone, in the foreground."),
    "ray": ("commands.ray:ray", "Run the Ray driver alone, in the foreground."),
    "serve": ("commands.serve:serve", "Run one worker's model server alone, or a relay, in the foreground."),
    "sim": ("commands.up:sim", "Simulated parts: a model server without models or GPU."),
}
"""By name, in the order of the help: where it is in this package (a function or a ``typer.Typer``), and its line there."""
_PARTS = {
    "run": "Batches",
    "up": "A swarm that stays up",
    "status": "What it does, and why",
    "queue": "Tasks, settings, access",
    "brain": "Single processes",
}
"""Headings of the help, by the first command below each."""
_PATHS_AS_TEXT = frozenset({"source", "words", "images_dir"})
"""Inputs: kept as they were typed, for `-` is one of them."""


class Commands(Mapping[str, Any]):
    """All commands, as typer wants them: by name."""

    def __getitem__(self, name: str) -> Any:
        return _make(name, COMMANDS[name][0])

    def __iter__(self) -> Iterator[str]:
        return iter(COMMANDS)

    def __len__(self) -> int:
        return len(COMMANDS)


class Command(TyperCommand):
    """A command that takes words and paths as they were typed, and what is absent as declared.

    Typer would load a validation library for each of them, which takes longer than most commands do.
    """

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Arguments as they were declared: some versions of typer put brackets of their own around those."""
        arguments = (param for param in self.get_params(ctx) if param.param_type_name == "argument")
        return ["[OPTIONS]", *(getattr(param, "metavar", None) or str(param.name).upper() for param in arguments)]

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
                _parse(param, ctx, given, rest)
        if rest and not ctx.allow_extra_args:
            ctx.fail(f"Got unexpected extra argument(s) ({' '.join(rest)})")
        ctx.args = rest
        return list(rest)


def _parse(param: Any, ctx: Any, given: Mapping[str, object], rest: list[str]) -> None:
    """As typer does, but without the words of its validation library: raises ``typer.BadParameter``."""
    try:
        param.handle_parse_result(ctx, given, rest)
    except typer.BadParameter as wrong:
        wrong.message = wrong.message.removeprefix("Value error, ").replace("Input should be", "must be")
        raise


class CommandGroup(TyperGroup, Command):
    """A group that takes its own options in the same way."""


class Group(CommandGroup):
    """The top of the command line: its commands are loaded late, and every way they can end becomes an exit code."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**{**attributes, "commands": None})
        self.commands: Any = Commands()

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002
        """List the commands without loading them."""
        names = list(COMMANDS)
        starts = [names.index(first) for first in _PARTS]
        for heading, start, end in zip(_PARTS.values(), starts, [*starts[1:], len(names)], strict=True):
            with formatter.section(heading):
                formatter.write_dl([(f"{name:7}", COMMANDS[name][1]) for name in names[start:end]])

    def invoke(self, ctx: Any) -> object:
        """Run the command; an error becomes a message on standard error and ``typer.Exit``."""
        try:
            answer: object = super().invoke(ctx)
        except SwarmError as error:
            _say(error)
            raise typer.Exit(error.exit_code) from error
        except KeyboardInterrupt as interrupt:
            print("interrupted", file=sys.stderr)
            raise typer.Exit(EXIT_INTERRUPTED) from interrupt
        except OutputLost as lost:
            raise typer.Exit(output_lost(lost)) from lost
        except OSError as error:
            _say(SwarmError(_os_words(error), hint=_os_hint(error)))
            raise typer.Exit(EXIT_USAGE) from error
        return answer


@cache
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
    is_path = _is_path(param)
    for word in value if isinstance(value, list | tuple) else (value,):
        if not isinstance(word, str):
            continue
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


_PLACE = re.compile(r"(.+?):([0-9]+): (.*)", re.DOTALL)


def output_lost(lost: OutputLost) -> int:
    """Say what was lost of standard output; the exit code. A reader that has all it wanted is no failure."""
    forget_output()
    if lost.reader_gone:
        return EXIT_OK
    hint = "the command may have been carried out; redirect its output elsewhere and check"
    _say(SwarmError(str(lost), hint=hint))
    return EXIT_USAGE


def _say(error: SwarmError) -> None:
    print(f"error: {lines(error.message)}", file=sys.stderr)
    if isinstance(error, InputError):
        for problem in folded(error.problems):
            print(f"  {lines(problem)}", file=sys.stderr)
    if error.hint:
        print(f"hint: {lines(error.hint)}", file=sys.stderr)


def folded(problems: Sequence[str]) -> list[str]:
    """The same finding on lines that follow one another, said once: ``in.jsonl:1-24: model: is missing``."""
    runs: list[tuple[str, int, int, str]] = []
    for text in problems:
        place = _PLACE.fullmatch(text)
        label, line_no, finding = (place[1], int(place[2]), place[3]) if place else ("", 0, text)
        if runs and place and (runs[-1][0], runs[-1][2] + 1, runs[-1][3]) == (label, line_no, finding):
            runs[-1] = (label, runs[-1][1], line_no, finding)
        else:
            runs.append((label, line_no, line_no, finding))
    spans = (str(first) if first == last else f"{first}-{last}" for _, first, last, _ in runs)
    return [f"{run[0]}:{span}: {run[3]}" if run[0] else run[3] for run, span in zip(runs, spans, strict=True)]


def _os_words(error: OSError) -> str:
    if isinstance(error, FileNotFoundError) and not error.filename:
        try:
            os.getcwd()
        except FileNotFoundError:
            return "the current directory has been deleted; cd to one that exists"
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{error.strerror or error}"


def _os_hint(error: OSError) -> str | None:
    match error.errno:
        case errno.EACCES | errno.EPERM:
            if not isinstance(error.filename, str):
                return "the system forbids a call, as a container's filter of system calls does: `swarm doctor` says which"
            return f"the file belongs to somebody else; run as its owner, or choose another --root{_owner(error.filename)}"
        case errno.ENOSPC | errno.EDQUOT:
            return "make room on that disk and run the command again"
        case errno.EEXIST | errno.ENOTDIR:
            return "there is a file where a directory is needed; choose another --root"
        case errno.EROFS:
            return "the file system is read-only; choose another --root"
        case _:
            return None


def _owner(path: str) -> str:
    while path and not os.path.lexists(path):
        path = os.path.dirname(path)
    try:
        return f" (owner of {path}: uid {os.lstat(path).st_uid})"
    except OSError:
        return ""


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
    Exit codes: 0 success, 1 some tasks failed (doctor, fsck: findings),
    2 usage or configuration, 3 no swarm is running or reachable,
    70 a fault in swarm itself, 130 interrupted (run again to resume).
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
