"""``swarm http``: the HTTP server alone."""

from __future__ import annotations

import typer

from swarm.cli.command_options import QueueOptions, Verbose, opt, with_address


def http(
    at: QueueOptions,
    listen: str | None = opt("--listen [HOST:]PORT", "Where it listens. [config: http.host, http.port; 127.0.0.1:8080]"),
    verbose: Verbose = False,
) -> None:
    """Run the HTTP server alone, in the foreground.

    `swarm up --http` does this for you. SIGTERM or Ctrl-C ends it when its requests have ended, the second one at once.

    \b
    Examples:
      swarm http
      swarm http --listen 9000
      swarm http --listen 0.0.0.0:8080     needs a token: swarm token create NAME
    """
    from swarm.config.listen import DEFAULT_PORT, http_address
    from swarm.runtime.bootstrap import run_options
    from swarm.runtime.extras import need_http

    loaded = at.load(announce=True)
    if listen is None and http_address(loaded.settings) is None:
        listen = str(DEFAULT_PORT)
    if listen is not None:
        loaded = with_address(loaded, listen, "--listen")
    need_http()
    from swarm.http.main import run_http  # needs what was just looked for

    raise typer.Exit(run_http(run_options(loaded, verbose=verbose)))
