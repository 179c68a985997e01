"""The command line put together. Importing this must stay cheap: `swarm --help` answers in under 0.2 s."""

from __future__ import annotations

from typing import Annotated

import typer

from swarm import __version__
from swarm.cli import config, logs, look, queue, run, up
from swarm.cli.exits import Group

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
    Exit codes: 0 all well, 1 some tasks failed, 2 usage or configuration,
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


app.command()(run.run)
app.command()(run.submit)
app.command()(run.results)
app.command()(up.up)
app.command()(up.down)
app.command()(look.status)
app.command()(look.workers)
app.command()(look.gpus)
app.command()(look.models)
app.command()(look.explain)
app.command()(logs.logs)
app.add_typer(queue.app, name="queue")
app.add_typer(config.app, name="config")
app.command()(up.brain)
app.command()(up.worker)
app.add_typer(up.sim, name="sim")
