"""``swarm models``: what is loaded, installed and waited for; ``swarm models pull``: get one."""

# ruff: noqa: D301  (the help texts carry \b, which keeps their examples as they are)

from __future__ import annotations

from typing import Annotated

import typer

from swarm.cli.options import Config, Json, Root, existing

app = typer.Typer(rich_markup_mode=None, invoke_without_command=True)


@app.callback()
def models(context: typer.Context, root: Root = None, config: Config = None, as_json: Json = False) -> None:
    """Models: where loaded, what waits, how fast, what idles.

    \b
    Examples:
      swarm models
      swarm models --json | jq '.models[] | select(.loaded_on == [])'
      swarm models pull llama3.2:3b
    """
    if context.invoked_subcommand is not None:
        return
    from swarm.cli.render import show
    from swarm.cli.views import installed_models as installed
    from swarm.cli.views import presenters as build
    from swarm.cli.views import screens
    from swarm.runtime.open import open_observer

    settings = existing(root, config)
    snapshot = open_observer(settings).snapshot()
    rows = build.model_rows(snapshot, installed.installed_models(snapshot, settings.queue.root))
    show({"models": rows}, [screens.models(rows)], as_json=as_json)


@app.command()
def pull(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A model, as Ollama names it: llama3.2:3b.")],
    root: Root = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Download a model, once for all servers that share its directory.

    Goes through a running server, or one started for it. What was downloaded before an interruption is kept.

    \b
    Example:
      swarm models pull llama3.2:3b
    """
    from swarm.cli.options import load
    from swarm.cli.render import Line, show
    from swarm.cli.run import model_pull as modelspull

    done = modelspull.pull(load(root, config), name)
    show(done, [Line(f"{done.model}: pulled through {done.through} in {done.seconds:.1f}s")], as_json=as_json)
