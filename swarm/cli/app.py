"""The command line put together. Importing this must stay cheap: `swarm --help` answers in under 0.2 s."""

from __future__ import annotations

from typing import Annotated

import typer

from swarm import __version__
from swarm.cli.command_registry import Group

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
