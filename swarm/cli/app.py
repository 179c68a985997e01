"""The command line put together. Importing this must stay cheap: `swarm --help` answers in under 0.2 s."""

from __future__ import annotations

from typing import Annotated

import typer

from swarm import __version__
from swarm.cli import (
    batchcmd,
    config,
    doctor,
    feed,
    logs,
    look,
    metrics,
    models,
    notify,
    queue,
    restart,
    run,
    serve,
    top,
    up,
    workers,
)
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
app.command()(batchcmd.batches)
app.add_typer(batchcmd.app, name="batch")
app.add_typer(notify.app, name="notify")
app.command()(feed.feed)
app.command()(feed.feeds)
app.command()(up.up)
app.command()(up.down)
app.command()(restart.restart)
app.command()(look.status)
app.command()(top.top)
app.add_typer(workers.app, name="workers")
app.command()(look.gpus)
app.add_typer(models.app, name="models")
app.command()(look.explain)
app.command()(doctor.doctor)
app.command()(logs.logs)
app.command()(metrics.metrics)
app.add_typer(queue.app, name="queue")
app.add_typer(config.app, name="config")
app.command()(up.brain)
app.command()(up.worker)
app.command()(serve.serve)
app.add_typer(up.sim, name="sim")
