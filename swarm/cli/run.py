"""``swarm run``, ``submit``, ``results``: the main job."""

# ruff: noqa: D301  (the help texts carry \b, which keeps their examples as they are)

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from swarm.cli.options import Config, Json, Root, Simulate, Verbose, load

Input = Annotated[str, typer.Argument(metavar="IN", help="JSONL, CSV, text or OpenAI batch file; - is standard input.")]
Output = Annotated[Path, typer.Option("-o", "--output", metavar="OUT", help="Where the results go.")]
Model = Annotated[str | None, typer.Option("--model", metavar="M", help="Model for lines that name none.")]
PromptField = Annotated[str | None, typer.Option("--prompt-field", metavar="NAME", help="Column that holds the prompt.")]
Template = Annotated[
    str | None, typer.Option("--template", metavar="TEXT", help="Prompt made of columns: 'Sum up: {text}'.")
]
System = Annotated[str | None, typer.Option("--system", metavar="TEXT", help="System message for every prompt.")]
Priority = Annotated[int, typer.Option("--priority", min=0, max=9, help="Higher sooner.")]
Limit = Annotated[int | None, typer.Option("--limit", metavar="N", min=1, help="Only the first N items.")]
Format = Annotated[
    str | None, typer.Option("--format", metavar="F", help="openai, jsonl, csv or text. [default: told by IN]")
]
Endpoint = Annotated[str | None, typer.Option("--endpoint", metavar="E", help="chat, generate or embed. [default: chat]")]
Options = Annotated[
    list[str] | None,
    typer.Option("--option", metavar="NAME=VALUE", help="Generation option: num_predict=64, temperature=0 …"),
]
Schema = Annotated[
    Path | None, typer.Option("--schema", metavar="FILE", help="JSON Schema that every answer must fit, or its item fails.")
]
Sort = Annotated[
    Literal["input", "longest", "shortest"],
    typer.Option(
        "--sort", help="Which prompts first; longest leaves the fewest cards idle at the end. Output keeps IN's order."
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check everything, say what would be done, write nothing.")]
Notify = Annotated[
    list[str] | None,
    typer.Option("--notify", metavar="TARGET", help="Told at the end: http(s)://…, script:NAME, a name of [notify]."),
]
Errors = Annotated[
    Path | None,
    typer.Option("--errors", metavar="FILE", help="Failures of an OpenAI batch. [default: OUT's name.errors.jsonl]"),
]
MaxFails = Annotated[
    int | None, typer.Option("--max-fails", metavar="N", min=0, help="With more failures, what waits of it is cancelled.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, only the summary.")]


def run(
    source: Input,
    output: Output,
    model: Model = None,
    prompt_field: PromptField = None,
    template: Template = None,
    system: System = None,
    priority: Priority = 5,
    limit: Limit = None,
    format: Format = None,  # noqa: A002 - the option's name
    endpoint: Endpoint = None,
    option: Options = None,
    schema: Schema = None,
    sort: Sort = "input",
    max_fails: MaxFails = None,
    dry_run: DryRun = False,
    notify: Notify = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Put failed and cancelled items of this batch back first.")
    ] = False,
    errors: Errors = None,
    simulate: Simulate = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
    root: Root = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """The main job: submit, work, collect.

    Starts a swarm for the time of the run if none is up.
    The same command again resumes: what is done is not done again. Ctrl-C once drains, twice stops; both can be resumed.

    \b
    Examples:
      swarm run prompts.jsonl -o out.jsonl --model llama3.2:3b
      swarm run gsm8k.jsonl --prompt-field question --model llama3.2:3b --simulate 4 -o out.jsonl
      swarm run openai-batch.jsonl -o out.jsonl --errors failures.jsonl
      swarm run prompts.csv --template "Sum up: {text}" --model llama3.2:3b --option num_predict=64 --dry-run -o out.jsonl
    """
    from swarm.cli.facade import RunRequest, batches
    from swarm.cli.progress import Progress

    request = RunRequest(
        source=source,
        output=output,
        model=model,
        prompt_field=prompt_field,
        template=template,
        system=system,
        priority=priority,
        limit=limit,
        format=format,
        endpoint=endpoint,
        options=tuple(option or ()),
        schema=schema,
        sort=sort,
        max_fails=max_fails,
        dry_run=dry_run,
        notify=tuple(notify or ()),
        retry_failed=retry_failed,
        errors=errors,
        simulate=simulate,
        verbose=verbose,
    )
    with Progress(quiet=quiet or as_json) as progress:
        outcome = batches().run(load(root, config), request, progress.update)
    _end(outcome.document, outcome.lines, outcome.exit_code, as_json=as_json)


def submit(
    source: Annotated[
        str | None, typer.Argument(metavar="[IN]", help="A file as for `swarm run`; - is standard input.")
    ] = None,
    prompt: Annotated[str | None, typer.Option("--prompt", metavar="TEXT", help="One prompt instead of a file.")] = None,
    task: Annotated[
        Path | None, typer.Option("--task", metavar="F", help="One task as a JSON document; - is standard input.")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until all of it has ended.")] = False,
    model: Model = None,
    prompt_field: PromptField = None,
    template: Template = None,
    system: System = None,
    priority: Priority = 5,
    limit: Limit = None,
    format: Format = None,  # noqa: A002 - the option's name
    endpoint: Endpoint = None,
    option: Options = None,
    schema: Schema = None,
    sort: Sort = "input",
    max_fails: MaxFails = None,
    dry_run: DryRun = False,
    notify: Notify = None,
    quiet: Quiet = False,
    root: Root = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Put work into the queue and return.

    It is safely on disk when this says so. Works without a running swarm.

    \b
    Examples:
      swarm submit prompts.jsonl --model llama3.2:3b
      swarm submit --prompt "Why is the sky blue?" --model llama3.2:3b --wait
      swarm submit --task task.json
    """
    from swarm.cli.facade import RunRequest, batches
    from swarm.cli.progress import Progress
    from swarm.errors import InputError

    if sum(given is not None for given in (source, prompt, task)) != 1:
        raise InputError(
            "give exactly one of IN, --prompt and --task", hint="swarm submit prompts.jsonl --model llama3.2:3b"
        )
    request = RunRequest(
        source=source,
        prompt=prompt,
        task=task,
        model=model,
        prompt_field=prompt_field,
        template=template,
        system=system,
        priority=priority,
        limit=limit,
        format=format,
        endpoint=endpoint,
        options=tuple(option or ()),
        schema=schema,
        sort=sort,
        max_fails=max_fails,
        dry_run=dry_run,
        notify=tuple(notify or ()),
    )
    with Progress(quiet=quiet or as_json or not wait) as progress:
        outcome = batches().submit(load(root, config), request, progress.update if wait else None)
    _end(outcome.document, outcome.lines, outcome.exit_code, as_json=as_json)


def results(
    batch: Annotated[str, typer.Argument(metavar="BATCH", help="The batch id that `swarm submit` printed.")],
    output: Output,
    root: Root = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Write what a batch has produced so far.

    Exit code 1 if some of it failed.

    \b
    Example:
      swarm results 0f3c9a -o out.jsonl
    """
    from swarm.cli.facade import batches
    from swarm.cli.options import existing

    outcome = batches().results(existing(root, config), batch, output)
    _end(outcome.document, outcome.lines, outcome.exit_code, as_json=as_json)


def _end(document: object, lines: tuple[str, ...], exit_code: int, *, as_json: bool) -> None:
    from swarm.cli.render import Line, show

    show(document, [Line(line) for line in lines], as_json=as_json)
    if exit_code:
        raise typer.Exit(exit_code)
