"""Options of ``run``, ``submit`` and ``feed``, each declared once as a dataclass field.

``takes`` gives a command the options of such a class; it receives their values as one frozen object.
"""

import functools
import inspect
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

import typer

from swarm.cli.common_options import Simulate, Verbose

Command = Callable[..., None]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, only the summary.")]


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


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How it ended: ``document`` for ``--json``; for a reader ``lines``, after the ``answer`` that was asked for."""

    exit_code: int
    document: dict[str, Any]
    lines: tuple[str, ...]
    answer: str = ""
    """A model's or program's own text."""


def takes(kind: type[LineOptions], *first: str) -> Callable[[Command], Command]:
    """Give a command the options of ``kind``, those named ``first`` at the head of its help; it gets them as ``request``."""
    hints = get_type_hints(kind, include_extras=True)
    defaults = {field.name: field.default for field in fields(kind)}
    names = [*first, *(name for name in defaults if name not in first and hasattr(hints[name], "__metadata__"))]

    def wrap(command: Command) -> Command:
        @functools.wraps(command)
        def call(**given: Any) -> None:  # noqa: ANN401 - options, as typer has read them
            command(request=kind(**{name: given.pop(name) for name in names}), **given)

        parameters = [
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=inspect.Parameter.empty if defaults[name] is MISSING else defaults[name],
                annotation=hints[name],
            )
            for name in names
        ]
        own = inspect.signature(command, eval_str=True).parameters.values()
        parameters += [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own if p.name != "request"]
        vars(call)["__signature__"] = inspect.Signature(parameters)
        call.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return call

    return wrap
