"""``swarm http``: the HTTP server alone."""

from __future__ import annotations

import typer

from swarm.cli.command_options import QueueOptions, Verbose


def http(at: QueueOptions, verbose: Verbose = False) -> None:
    """Run the HTTP server alone, in the foreground.

    \b
    Example:
      swarm http
    """
    from swarm.http.main import run_http
    from swarm.runtime.bootstrap import run_options

    raise typer.Exit(run_http(run_options(at.load(), verbose=verbose)))
