"""``swarm run``, ``submit``, ``results``: the main job."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from swarm.cli.command_options import NEEDED, RunRequest, ShowOptions, SubmitRequest, arg, opt
from swarm.errors import InputError


def run(at: ShowOptions, request: RunRequest) -> None:
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

    if at.as_json:
        request = replace(request, quiet=True)
    at.check_output(request.output)
    loaded = at.load(announce=not request.quiet)
    with Progress(quiet=request.quiet) as progress:
        outcome = pipeline.run(loaded, request, progress.update)
    at.end(outcome, request.output)


def submit(at: ShowOptions, request: SubmitRequest) -> None:
    """Submit tasks to the queue and return.

    Accepted tasks are durable. Needs no running swarm.

    \b
    Examples:
      swarm submit prompts.jsonl --model llama3.2:3b
      swarm submit --prompt "Why is the sky blue?" --model llama3.2:3b --wait
      swarm submit nightly.jsonl --model llama3.2:3b --delay 10m --max-attempts 2
      swarm submit --task task.json
    """
    if sum(given is not None for given in (request.source, request.prompt, request.task)) != 1:
        raise InputError(
            "give exactly one of IN, --prompt and --task", hint="swarm submit prompts.jsonl --model llama3.2:3b"
        )
    loaded = at.load()
    if request.source is None:
        from swarm.cli.run.single_task import submit_one

        outcome = submit_one(loaded.settings, request)
    else:
        from swarm.cli.run import pipeline
        from swarm.cli.run.progress import Progress

        with Progress(quiet=request.quiet or at.as_json or not request.wait) as progress:
            outcome = pipeline.submit(loaded, request, progress.update if request.wait else None)
    at.end(outcome)


def results(
    at: ShowOptions,
    batch: str = arg("BATCH", "The batch id that `swarm submit` printed."),
    output: Path = opt("-o --output OUT", "Output file.", NEEDED),
) -> None:
    """Write the results of a batch so far.

    Exit code 1 if some tasks failed.

    \b
    Example:
      swarm results prompts-1a2b3c4d -o out.jsonl
    """
    from swarm.cli.run import collect

    at.check_output(output)
    at.end(collect.results(at.settings(), batch, output), output)
