"""``swarm serve``: one worker's model server alone."""

# ruff: noqa: D301  (the help texts carry \b, which keeps their examples as they are)

from __future__ import annotations

from typing import Annotated

import typer

from swarm.cli.options import Config, Root, Simulate, Verbose, load


def serve(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The worker whose model server it is.")],
    simulate: Simulate = None,
    verbose: Verbose = False,
    root: Root = None,
    config: Config = None,
) -> None:
    """Run one worker's model server alone, in the foreground.

    `swarm up` does this for you. It is started again when it ends; SIGTERM or Ctrl-C stops it.

    \b
    Example:
      swarm serve worker-1
    """
    from swarm.cli.facade import wiring

    raise typer.Exit(wiring().run_server(load(root, config), name, simulate=simulate, verbose=verbose))
