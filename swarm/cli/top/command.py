"""``swarm top``: the swarm live on a terminal; one look in a pipe."""

# ruff: noqa: D301  (the help texts carry \b, which keeps their examples as they are)

from __future__ import annotations

from typing import Annotated

import typer

from swarm.cli.options import Config, Json, Root, existing


def top(
    interval: Annotated[float, typer.Option("--interval", metavar="S", min=0.2, help="Seconds between two looks.")] = 1.0,
    root: Root = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Watch the swarm live; keys to sort, look closer, retry, cancel.

    Press ? for the keys. In a pipe it prints one look, as `swarm status` does; --json prints one look as a document.

    \b
    Examples:
      swarm top
      ssh -t gpu-box swarm top
      swarm top --json | jq .active
    """
    import sys

    from swarm.cli.render import show
    from swarm.cli.top.data import Looker
    from swarm.cli.views.overview import status_blocks

    settings = existing(root, config)
    if as_json or not (sys.stdout.isatty() and sys.stdin.isatty()):
        view = Looker(settings).look().status
        show(view, status_blocks(view), as_json=as_json)
        return
    from swarm.cli.top.loop import run

    run(settings, interval)
