"""The options of submissions, as the commands that take input share them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

Input = Annotated[str, typer.Argument(metavar="IN", help="JSONL, CSV, text or OpenAI batch file; - is standard input.")]
Output = Annotated[Path, typer.Option("-o", "--output", metavar="OUT", help="Where the results go.")]
RunOutput = Annotated[
    Path | None, typer.Option("-o", "--output", metavar="OUT", help="Where the results go; only --dry-run needs none.")
]
Model = Annotated[str | None, typer.Option("--model", metavar="M", help="Model for lines that name none.")]
PromptField = Annotated[str | None, typer.Option("--prompt-field", metavar="NAME", help="Column that holds the prompt.")]
Template = Annotated[
    str | None, typer.Option("--template", metavar="TEXT", help="Prompt made of columns: 'Sum up: {text}'.")
]
System = Annotated[str | None, typer.Option("--system", metavar="TEXT", help="System message for every prompt.")]
Priority = Annotated[int | None, typer.Option("--priority", min=0, max=9, help="Higher sooner. [default: 5]")]
Limit = Annotated[
    int | None,
    typer.Option("--limit", metavar="N", min=1, help="Only the first N items of IN; what a batch has besides stays in it."),
]
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
NotBefore = Annotated[
    str | None,
    typer.Option("--not-before", "--delay", metavar="WHEN", help="Begin none of it before: 10m, 22:00, 2026-02-07T21:05."),
]
Timeout = Annotated[
    str | None, typer.Option("--timeout", metavar="S", help="Longest time for one attempt: 90, 5m. [config: 600 s]")
]
MaxAttempts = Annotated[
    int | None, typer.Option("--max-attempts", metavar="N", min=1, max=100, help="Attempts for each item. [config: 3]")
]
Cache = Annotated[
    bool | None,
    typer.Option("--cache/--no-cache", help="Take answers given before by the same model to the same request. [config: no]"),
]
ImagesDir = Annotated[
    str | None, typer.Option("--images-dir", metavar="DIR", help="Where the images lie that lines name. [default: with IN]")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, only the summary.")]
