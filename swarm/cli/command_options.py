"""Options of the commands, each declared once: single ones, and groups of them as dataclasses.

A command asks for a group by an argument of that type, and gets the values of all its options as one frozen object:
``spread`` shows typer the options one by one.
"""

import functools
import inspect
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, get_type_hints

import typer

from swarm.errors import InputError, NotRunning

if TYPE_CHECKING:
    from swarm.cli.render import Block
    from swarm.config.load import Loaded
    from swarm.config.settings import Settings
    from swarm.queue.file_queue import FileQueue

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, only the summary.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Log at DEBUG: claim attempts, lost races, heartbeats.")]
Simulate = Annotated[
    int | None,
    typer.Option("--simulate", metavar="N", min=1, max=256, help="N simulated cards, each with a simulated model server."),
]


@dataclass(frozen=True, kw_only=True)
class QueueOptions:
    """Which queue, and which configuration."""

    root: Annotated[
        Path | None,
        typer.Option(
            "--root", metavar="DIR", help="Queue directory. [default: $SWARM_ROOT, the config's queue.root, ./queue]"
        ),
    ] = None
    config: Annotated[
        Path | None,
        typer.Option(
            "--config", metavar="FILE", help="Configuration. [default: $SWARM_CONFIG, config/swarm.toml if it exists]"
        ),
    ] = None

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
        """The settings in force, for commands that look at a queue that is there. Raises ``NotRunning`` if it is not."""
        found = self.load().settings
        if not os.path.isdir(found.queue.root):
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

    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on standard output, nothing else.")] = False

    def show(self, document: object, blocks: "Sequence[Block]") -> None:
        """Print the answer: the document, or for a reader the blocks."""
        from swarm.cli.render import show

        show(document, blocks, as_json=self.as_json)

    def end(self, outcome: "Outcome", output: Path | None = None) -> None:
        """Say how it ended; beside results on standard output nothing else is written there. Exits with its code."""
        from swarm.cli.render import Line, Said

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

    model: Annotated[str | None, typer.Option("--model", metavar="M", help="Model for lines that name none.")] = None
    prompt_field: Annotated[
        str | None, typer.Option("--prompt-field", metavar="NAME", help="Column that holds the prompt.")
    ] = None
    template: Annotated[
        str | None, typer.Option("--template", metavar="TEXT", help="Prompt built from columns: 'Sum up: {text}'.")
    ] = None
    system: Annotated[str | None, typer.Option("--system", metavar="TEXT", help="System message for every prompt.")] = None
    priority: Annotated[int | None, typer.Option("--priority", min=0, max=9, help="Higher runs sooner. [default: 5]")] = None
    format: Annotated[
        str | None,
        typer.Option("--format", metavar="F", help="openai, jsonl, csv or text. [default: by IN's name and content]"),
    ] = None
    endpoint: Annotated[
        str | None, typer.Option("--endpoint", metavar="E", help="chat, generate or embed. [default: chat]")
    ] = None
    option: Annotated[
        list[str] | None,
        typer.Option("--option", metavar="NAME=VALUE", help="Generation option: num_predict=64, temperature=0 …"),
    ] = None
    schema: Annotated[
        Path | None,
        typer.Option("--schema", metavar="FILE", help="JSON Schema that every answer must match, or its item fails."),
    ] = None
    timeout: Annotated[
        str | None, typer.Option("--timeout", metavar="S", help="Limit for one attempt: 90, 5m. [config: 600 s]")
    ] = None
    max_attempts: Annotated[
        int | None,
        typer.Option("--max-attempts", metavar="N", min=1, max=100, help="Attempts for each item. [config: 3]"),
    ] = None
    cache: Annotated[
        bool | None,
        typer.Option("--cache/--no-cache", help="Use cached answers of the same model to the same request. [config: no]"),
    ] = None


@dataclass(frozen=True, kw_only=True)
class BatchOptions(LineOptions):
    """The same for an input that is read to its end: which of its items, in which order, from when on."""

    limit: Annotated[
        int | None,
        typer.Option("--limit", metavar="N", min=1, help="Only the first N items of IN; a batch keeps its other items."),
    ] = None
    sort: Annotated[
        Literal["input", "longest", "shortest"],
        typer.Option(
            "--sort",
            help="Order of work; longest first leaves the fewest cards idle at the end. Output keeps IN's order.",
        ),
    ] = "input"
    max_fails: Annotated[
        int | None,
        typer.Option("--max-fails", metavar="N", min=0, help="Cancel the waiting tasks after more failures than this."),
    ] = None
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything and show the plan; write nothing.")] = False
    notify: Annotated[
        list[str] | None,
        typer.Option(
            "--notify", metavar="TARGET", help="Notified at the end: http(s)://…, script:NAME, a name of [notify]."
        ),
    ] = None
    not_before: Annotated[
        str | None,
        typer.Option("--not-before", "--delay", metavar="WHEN", help="Start nothing before: 10m, 22:00, 2026-02-07T21:05."),
    ] = None
    images_dir: Annotated[
        str | None,
        typer.Option("--images-dir", metavar="DIR", help="Directory of the images that lines name. [default: that of IN]"),
    ] = None
    quiet: Quiet = False


@dataclass(frozen=True, kw_only=True)
class RunRequest(BatchOptions):
    """What `swarm run` was asked to do."""

    FIRST: ClassVar = ("source", "output")
    source: Annotated[str, typer.Argument(metavar="IN", help="JSONL, CSV, text or OpenAI batch file; - is standard input.")]
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="OUT", help="Output file; not needed with --dry-run.")
    ] = None
    errors: Annotated[
        Path | None,
        typer.Option("--errors", metavar="FILE", help="Failures of an OpenAI batch. [default: OUT's name.errors.jsonl]"),
    ] = None
    retry_failed: Annotated[
        bool,
        typer.Option("--retry-failed", help="Retry failed and cancelled items first; with --limit those among the first N."),
    ] = False
    simulate: Simulate = None
    verbose: Verbose = False


@dataclass(frozen=True, kw_only=True)
class SubmitRequest(BatchOptions):
    """What `swarm submit` was asked to do: exactly one of ``source``, ``prompt`` and ``task`` is given."""

    FIRST: ClassVar = ("source", "prompt", "task", "wait")
    source: Annotated[str | None, typer.Argument(metavar="[IN]", help="A file as for `swarm run`; - is standard input.")] = (
        None
    )
    prompt: Annotated[str | None, typer.Option("--prompt", metavar="TEXT", help="One prompt instead of a file.")] = None
    task: Annotated[
        Path | None, typer.Option("--task", metavar="F", help="One task as a JSON document; - is standard input.")
    ] = None
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the end of all tasks.")] = False


@dataclass(frozen=True, kw_only=True)
class FeedRequest(LineOptions):
    """What `swarm feed` was asked to do: either ``source``, a file, or ``command`` is given."""

    FIRST: ClassVar = ("command", "low", "target", "follow")
    source: str | None = None
    command: Annotated[
        str | None,
        typer.Option("--command", metavar="CMD", help="Feed the lines that this command prints (run without a shell)."),
    ] = None
    low: Annotated[
        int | None, typer.Option("--min", metavar="N", min=1, help="Refill when fewer tasks wait. [config: 5]")
    ] = None
    target: Annotated[
        int | None, typer.Option("--target", metavar="N", min=1, help="Refill to this number. [config: 10]")
    ] = None
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Do not end with the file; wait for it to grow.")] = False
    quiet: Quiet = False


@dataclass(frozen=True)
class Outcome:
    """How it ended: ``document`` for ``--json``; for a reader ``lines``, after the ``answer`` that was asked for."""

    exit_code: int
    document: dict[str, Any]
    lines: tuple[str, ...]
    answer: str = ""
    """A model's or program's own text."""


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
            parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))

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
    defaults = {field.name: field.default for field in fields(kind)}
    first: tuple[str, ...] = getattr(kind, "FIRST", ())
    for name in (*first, *(name for name in defaults if name not in first)):
        if hasattr(hints[name], "__metadata__"):
            default = inspect.Parameter.empty if defaults[name] is MISSING else defaults[name]
            yield inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hints[name])
