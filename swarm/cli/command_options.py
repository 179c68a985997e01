"""Options of the commands, each declared once: single ones, and groups of them as dataclasses.

A command asks for a group by an argument of that type, and gets the values of all its options as one frozen object:
``spread`` shows typer the options one by one.
"""

import functools
import inspect
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, get_type_hints

import typer

from swarm.errors import InputError, NotRunning

if TYPE_CHECKING:
    from swarm.config.load import Loaded
    from swarm.config.settings import Settings
    from swarm.queue.file_queue import FileQueue
    from swarm.views.blocks import Block

Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Log at DEBUG: claim attempts, lost races, heartbeats.")]
Simulate = Annotated[
    int | None,
    typer.Option("--simulate", metavar="N", min=1, max=256, help="N simulated cards, each with a simulated model server."),
]


NEEDED = MISSING
"""The default of what must be given."""


def opt(names: str, text: str, default: object = None, *, least: float | None = None, most: float | None = None) -> Any:  # noqa: ANN401
    """An option, as a field of a group or the default of a parameter.

    ``names``: what it is called, then perhaps what stands for its value: ``-o --output OUT``.
    """
    words = names.split()
    value = None if words[-1].startswith("-") else words.pop()
    return field(default=default, metadata={"typer": typer.Option(*words, metavar=value, help=text, min=least, max=most)})


def arg(value: str, text: str, default: object = NEEDED) -> Any:  # noqa: ANN401
    """The same for an argument."""
    return field(default=default, metadata={"typer": typer.Argument(metavar=value, help=text)})


@dataclass(frozen=True, kw_only=True)
class QueueOptions:
    """Which queue, and which configuration."""

    root: Path | None = opt("--root DIR", "Queue directory. [default: $SWARM_ROOT, the config's queue.root, ./queue]")
    config: Path | None = opt("--config FILE", "Configuration. [default: $SWARM_CONFIG, config/swarm.toml if it exists]")

    def load(self, *, announce: bool = False) -> "Loaded":
        """File, environment and options read; raises ``ConfigError``.

        ``announce``: report a file found in the current directory, since it decides what is started.
        """
        from swarm.config.load import load

        loaded = load(self.config, os.environ, self.root)
        if announce and loaded.found:
            print(f"configuration: {loaded.path}", file=sys.stderr)
        return loaded

    def settings(self) -> "Settings":
        """The settings in force, for commands that look at a queue that is there.

        Raises ``NotRunning`` if it is not, ``QueueError`` where this user may not look into it: it would seem to be empty.
        """
        from swarm.queue.root import check_readable

        found = self.load().settings
        if not check_readable(found.queue.root):
            hint = "start one with `swarm up` (or `swarm up --simulate 2`), or name its directory with --root"
            raise NotRunning(f"there is no queue at {found.queue.root}", hint=hint)
        return found

    def queue(self) -> "FileQueue":
        """The queue that is there. Raises as ``settings``."""
        from swarm.runtime.open import open_queue

        return open_queue(self.settings())


@dataclass(frozen=True, kw_only=True)
class ShowOptions(QueueOptions):
    """The same, and how to answer."""

    as_json: bool = opt("--json", "One JSON document on standard output, nothing else.", False)

    def show(self, document: object, blocks: "Sequence[Block]") -> None:
        """Print the answer: the document, or for a reader the blocks."""
        from swarm.cli.render import show

        show(document, blocks, as_json=self.as_json)

    def end(self, outcome: "Outcome", output: Path | None = None) -> None:
        """Say how it ended; beside results on standard output nothing else is written there. Exits with its code."""
        from swarm.views.blocks import Line, Said

        if str(output) == "-":
            for line in outcome.lines:
                print(line, file=sys.stderr)
        else:
            answer: list[Block] = [Said(outcome.answer)] if outcome.answer else []
            self.show(outcome.document, [*answer, *map(Line, outcome.lines)])
        if outcome.exit_code:
            raise typer.Exit(outcome.exit_code)

    def check_output(self, output: Path | None) -> None:
        """Raises ``InputError`` where results and the document would be mixed."""
        if self.as_json and str(output) == "-":
            raise InputError("-o - and --json both need standard output", hint="name a file for the results")


@dataclass(frozen=True, kw_only=True)
class LineOptions:
    """How the lines of an input become tasks."""

    model: str | None = opt("--model M", "Model for lines that name none.")
    prompt_field: str | None = opt("--prompt-field NAME", "Column that holds the prompt.")
    template: str | None = opt("--template TEXT", "Prompt built from columns: 'Sum up: {text}'.")
    system: str | None = opt("--system TEXT", "System message for every prompt.")
    priority: int | None = opt("--priority N", "Higher runs sooner. [default: 5]", least=0, most=9)
    format: str | None = opt("--format F", "openai, jsonl, csv or text. [default: by IN's name and content]")
    endpoint: str | None = opt("--endpoint E", "chat, generate or embed. [default: chat]")
    option: list[str] | None = opt("--option NAME=VALUE", "Generation option: num_predict=64, temperature=0 …")
    schema: Path | None = opt("--schema FILE", "JSON Schema that every answer must match, or its item fails.")
    timeout: str | None = opt("--timeout S", "Limit for one attempt: 90, 5m. [config: 600 s]")
    max_attempts: int | None = opt("--max-attempts N", "Attempts for each item. [config: 3]", least=1, most=100)
    cache: bool | None = opt("--cache/--no-cache", "Use cached answers of the same model to the same request. [config: no]")


@dataclass(frozen=True, kw_only=True)
class BatchOptions(LineOptions):
    """The same for an input that is read to its end: which of its items, in which order, from when on."""

    limit: int | None = opt("--limit N", "Only the first N items of IN; a batch keeps its other items.", least=1)
    sort: Literal["input", "longest", "shortest"] = opt(
        "--sort", "Order of work; longest first leaves the fewest cards idle at the end. Output keeps IN's order.", "input"
    )
    max_fails: int | None = opt("--max-fails N", "Cancel the waiting tasks after more failures than this.", least=0)
    dry_run: bool = opt("--dry-run", "Check everything and show the plan; write nothing.", False)
    notify: list[str] | None = opt("--notify TARGET", "Notified at the end: http(s)://…, script:NAME, a name of [notify].")
    not_before: str | None = opt("--not-before --delay WHEN", "Start nothing before: 10m, 22:00, 2026-02-07T21:05.")
    images_dir: str | None = opt("--images-dir DIR", "Directory of the images that lines name. [default: that of IN]")
    quiet: bool = opt("--quiet -q", "No progress, only the summary.", False)


@dataclass(frozen=True, kw_only=True)
class RunRequest(BatchOptions):
    """What `swarm run` was asked to do."""

    FIRST: ClassVar = ("source", "output")
    source: str = arg("IN", "JSONL, CSV, text or OpenAI batch file; - is standard input.")
    output: Path | None = opt("-o --output OUT", "Output file; not needed with --dry-run.")
    errors: Path | None = opt("--errors FILE", "Failures of an OpenAI batch. [default: OUT's name.errors.jsonl]")
    retry_failed: bool = opt(
        "--retry-failed", "Retry failed and cancelled items first; with --limit those among the first N.", False
    )
    simulate: Simulate = None
    verbose: Verbose = False


@dataclass(frozen=True, kw_only=True)
class SubmitRequest(BatchOptions):
    """What `swarm submit` was asked to do: exactly one of ``source``, ``prompt`` and ``task`` is given."""

    FIRST: ClassVar = ("source", "prompt", "task", "wait")
    source: str | None = arg("[IN]", "A file as for `swarm run`; - is standard input.", None)
    prompt: str | None = opt("--prompt TEXT", "One prompt instead of a file.")
    task: Path | None = opt("--task F", "One task as a JSON document; - is standard input.")
    wait: bool = opt("--wait", "Wait for the end of all tasks.", False)


@dataclass(frozen=True, kw_only=True)
class FeedRequest(LineOptions):
    """What `swarm feed` was asked to do: either ``source``, a file, or ``command`` is given."""

    FIRST: ClassVar = ("command", "low", "target", "follow")
    source: str | None = None
    command: str | None = opt("--command CMD", "Feed the lines that this command prints (run without a shell).")
    low: int | None = opt("--min N", "Refill when fewer tasks wait. [config: 5]", least=1)
    target: int | None = opt("--target N", "Refill to this number. [config: 10]", least=1)
    follow: bool = opt("--follow -f", "Do not end with the file; wait for it to grow.", False)
    quiet: bool = opt("--quiet -q", "No progress, only the summary.", False)


@dataclass(frozen=True)
class Outcome:
    """How it ended: ``document`` for ``--json``; for a reader ``lines``, after the ``answer`` that was asked for."""

    exit_code: int
    document: dict[str, Any]
    lines: tuple[str, ...]
    answer: str = ""
    """A model's or program's own text."""


def with_address(loaded: "Loaded", text: str, option: str) -> "Loaded":
    """The configuration with the HTTP server at ``[HOST:]PORT``. Raises ``InputError`` that names the option."""
    from msgspec.structs import replace

    from swarm.config.listen import parse_listen, with_http

    address = parse_listen(text, option, loaded.settings.http.host)
    return replace(loaded, settings=with_http(loaded.settings, address))


def with_ray(loaded: "Loaded", address: str) -> "Loaded":
    """The configuration with the cards of the Ray cluster at ``address``. Raises ``InputError``."""
    from msgspec.structs import replace

    if not address or address.split() != [address] or address.startswith("-"):
        raise InputError(f"--ray {address!r} is no address", hint="HOST:PORT of the cluster's head, or auto")
    ray = replace(loaded.settings.ray, address=address)
    return replace(loaded, settings=replace(loaded.settings, ray=ray))


def spread(command: Callable[..., None]) -> Callable[..., None]:
    """The command with the options of its groups one by one, as typer wants them; those of ``FIRST`` lead a group.

    Those of the queue come last.
    """
    groups: dict[str, tuple[type[Any], list[inspect.Parameter]]] = {}
    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(command, eval_str=True).parameters.values():
        kind = parameter.annotation
        if isinstance(kind, type) and is_dataclass(kind):
            groups[parameter.name] = kind, list(_options_of(kind))
            parameters += groups[parameter.name][1]
        else:
            parameters.append(_as_typer_wants(parameter.name, kind, parameter.default))

    @functools.wraps(command)
    def call(**given: Any) -> None:  # noqa: ANN401 - options, as typer has read them
        made = {name: kind(**{one.name: given.pop(one.name) for one in options}) for name, (kind, options) in groups.items()}
        command(**made, **given)

    parameters.sort(key=lambda parameter: parameter.name in ("root", "config", "as_json"))
    vars(call)["__signature__"] = inspect.Signature(parameters)
    call.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return call


def _options_of(kind: type[Any]) -> Iterator[inspect.Parameter]:
    hints = get_type_hints(kind, include_extras=True)
    by_name = {one.name: one for one in fields(kind)}
    first: tuple[str, ...] = getattr(kind, "FIRST", ())
    for name in dict.fromkeys((*first, *by_name)):
        one = by_name[name]
        if one.metadata or hasattr(hints[name], "__metadata__"):  # the others are no options
            yield _as_typer_wants(name, hints[name], one if one.metadata else one.default)


def _as_typer_wants(name: str, hint: Any, default: object) -> inspect.Parameter:  # noqa: ANN401 - a type
    if isinstance(default, Field):
        hint, default = Annotated[hint, default.metadata["typer"]], default.default
    default = inspect.Parameter.empty if default is MISSING else default
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hint)
