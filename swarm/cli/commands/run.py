"""``swarm run``, ``submit``, ``results``: the main job."""

# ruff: noqa: D301  (the help texts carry \b, which keeps their examples as they are)

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from swarm.cli.common_options import Config, Json, Root, load, say_found
from swarm.cli.submission import RunRequest, SubmitRequest, takes

if TYPE_CHECKING:
    from swarm.cli.submission import Outcome


@takes(RunRequest, "source", "output")
def run(request: RunRequest, root: Root = None, config: Config = None, as_json: Json = False) -> None:
    """The main job: submit, work, collect.

    Starts a swarm for the time of the run if none is up.
    The same command again resumes and repeats nothing. Ctrl-C once drains, twice stops; both can be resumed.

    \b
    Examples:
      swarm run prompts.jsonl -o out.jsonl --model llama3.2:3b
      swarm run gsm8k.jsonl --prompt-field question --model llama3.2:3b --simulate 4 -o out.jsonl
      swarm run openai-batch.jsonl -o out.jsonl --errors failures.jsonl
      swarm run prompts.csv --template "Sum up: {text}" --model llama3.2:3b --option num_predict=64 --dry-run
      swarm run prompts.jsonl -o out.jsonl --model llama3.2:3b --not-before 22:00 --timeout 5m --max-attempts 2
    """
    from swarm.cli.run import pipeline
    from swarm.cli.run.progress import Progress

    if as_json:
        request = replace(request, quiet=True)
    check_output(request.output, as_json=as_json)
    loaded = load(root, config)
    if not request.quiet:
        say_found(loaded)
    with Progress(quiet=request.quiet) as progress:
        outcome = pipeline.run(loaded, request, progress.update)
    end(outcome, as_json=as_json, output=request.output)


@takes(SubmitRequest, "source", "prompt", "task", "wait")
def submit(request: SubmitRequest, root: Root = None, config: Config = None, as_json: Json = False) -> None:
    """Submit tasks to the queue and return.

    Accepted tasks are durable. Needs no running swarm.

    \b
    Examples:
      swarm submit prompts.jsonl --model llama3.2:3b
      swarm submit --prompt "Why is the sky blue?" --model llama3.2:3b --wait
      swarm submit nightly.jsonl --model llama3.2:3b --delay 10m --max-attempts 2
      swarm submit --task task.json
    """
    from swarm.errors import InputError

    if sum(given is not None for given in (request.source, request.prompt, request.task)) != 1:
        raise InputError(
            "give exactly one of IN, --prompt and --task", hint="swarm submit prompts.jsonl --model llama3.2:3b"
        )
    loaded = load(root, config)
    if request.source is None:
        from swarm.cli.run.single_task import submit_one

        outcome = submit_one(loaded.settings, request)
    else:
        from swarm.cli.run import pipeline
        from swarm.cli.run.progress import Progress

        with Progress(quiet=request.quiet or as_json or not request.wait) as progress:
            outcome = pipeline.submit(loaded, request, progress.update if request.wait else None)
    end(outcome, as_json=as_json)


def results(
    batch: Annotated[str, typer.Argument(metavar="BATCH", help="The batch id that `swarm submit` printed.")],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="OUT", help="Output file.")],
    root: Root = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Write the results of a batch so far.

    Exit code 1 if some tasks failed.

    \b
    Example:
      swarm results 0f3c9a -o out.jsonl
    """
    from swarm.cli.common_options import existing
    from swarm.cli.run import collect

    check_output(output, as_json=as_json)
    outcome = collect.results(existing(root, config), batch, output)
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
        raise InputError("-o - and --json both need standard output", hint="name a file for the results")
