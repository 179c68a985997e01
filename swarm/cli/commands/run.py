"""``swarm run``, ``submit``, ``results``: the main job."""

# ruff: noqa: D301  (the help texts carry \b, which keeps their examples as they are)

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from swarm.cli.options import Config, Json, Root, Simulate, Verbose, load, say_found
from swarm.cli.submit_options import (
    Cache,
    DryRun,
    Endpoint,
    Errors,
    Format,
    ImagesDir,
    Input,
    Limit,
    MaxAttempts,
    MaxFails,
    Model,
    NotBefore,
    Notify,
    Options,
    Output,
    Priority,
    PromptField,
    Quiet,
    RunOutput,
    Schema,
    Sort,
    System,
    Template,
    Timeout,
)

if TYPE_CHECKING:
    from swarm.cli.facade import Outcome


def run(
    source: Input,
    output: RunOutput = None,
    model: Model = None,
    prompt_field: PromptField = None,
    template: Template = None,
    system: System = None,
    priority: Priority = None,
    limit: Limit = None,
    format: Format = None,  # noqa: A002 - the option's name
    endpoint: Endpoint = None,
    option: Options = None,
    schema: Schema = None,
    sort: Sort = "input",
    max_fails: MaxFails = None,
    dry_run: DryRun = False,
    notify: Notify = None,
    not_before: NotBefore = None,
    timeout: Timeout = None,
    max_attempts: MaxAttempts = None,
    images_dir: ImagesDir = None,
    cache: Cache = None,
    retry_failed: Annotated[
        bool,
        typer.Option("--retry-failed", help="Put failed and cancelled items back first; with --limit among the first N."),
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
      swarm run prompts.csv --template "Sum up: {text}" --model llama3.2:3b --option num_predict=64 --dry-run
      swarm run prompts.jsonl -o out.jsonl --model llama3.2:3b --not-before 22:00 --timeout 5m --max-attempts 2
    """
    from swarm.cli.facade import RunRequest, batches
    from swarm.cli.run.progress import Progress

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
        not_before=not_before,
        timeout=timeout,
        max_attempts=max_attempts,
        images_dir=images_dir,
        cache=cache,
        retry_failed=retry_failed,
        errors=errors,
        simulate=simulate,
        verbose=verbose,
        quiet=quiet or as_json,
    )
    check_output(output, as_json=as_json)
    loaded = load(root, config)
    if not request.quiet:
        say_found(loaded)
    with Progress(quiet=request.quiet) as progress:
        outcome = batches().run(loaded, request, progress.update)
    end(outcome, as_json=as_json, output=output)


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
    priority: Priority = None,
    limit: Limit = None,
    format: Format = None,  # noqa: A002 - the option's name
    endpoint: Endpoint = None,
    option: Options = None,
    schema: Schema = None,
    sort: Sort = "input",
    max_fails: MaxFails = None,
    dry_run: DryRun = False,
    notify: Notify = None,
    not_before: NotBefore = None,
    timeout: Timeout = None,
    max_attempts: MaxAttempts = None,
    images_dir: ImagesDir = None,
    cache: Cache = None,
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
      swarm submit nightly.jsonl --model llama3.2:3b --delay 10m --max-attempts 2
      swarm submit --task task.json
    """
    from swarm.cli.facade import RunRequest, batches
    from swarm.cli.run.progress import Progress
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
        not_before=not_before,
        timeout=timeout,
        max_attempts=max_attempts,
        images_dir=images_dir,
        cache=cache,
    )
    with Progress(quiet=quiet or as_json or not wait) as progress:
        outcome = batches().submit(load(root, config), request, progress.update if wait else None)
    end(outcome, as_json=as_json)


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

    check_output(output, as_json=as_json)
    outcome = batches().results(existing(root, config), batch, output)
    end(outcome, as_json=as_json, output=output)


def end(outcome: Outcome, *, as_json: bool, output: Path | None = None) -> None:
    """Say how it ended; beside results on standard output nothing else is written there."""
    from swarm.cli.render import Block, Line, Said, show

    if str(output) == "-":
        for line in outcome.lines:
            print(line, file=sys.stderr)
    else:
        blocks: list[Block] = [Said(outcome.answer)] if outcome.answer else []
        show(outcome.document, [*blocks, *map(Line, outcome.lines)], as_json=as_json)
    if outcome.exit_code:
        raise typer.Exit(outcome.exit_code)


def check_output(output: Path | None, *, as_json: bool) -> None:
    """Raises ``InputError`` where results and the document would be mixed."""
    from swarm.errors import InputError

    if as_json and str(output) == "-":
        raise InputError("-o - and --json both want standard output", hint="name a file for the results")
