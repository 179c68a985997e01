"""``swarm metrics``: the swarm in Prometheus's text format, once or as an HTTP endpoint."""

# ruff: noqa: D301  (the help texts carry \b, which keeps their examples as they are)

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from swarm.cli.options import Config, Root, existing

if TYPE_CHECKING:
    from swarm.config.settings import Settings

DEFAULT_PORT = 9464


def metrics(
    serve: Annotated[bool, typer.Option("--serve", help="Answer on http://HOST:PORT/metrics until interrupted.")] = False,
    host: Annotated[str | None, typer.Option("--host", help="[default: metrics.host, which is 127.0.0.1]")] = None,
    port: Annotated[
        int | None, typer.Option("--port", min=1, max=65535, help=f"[default: metrics.port, else {DEFAULT_PORT}]")
    ] = None,
    root: Root = None,
    config: Config = None,
) -> None:
    """Numbers for Prometheus, as text on standard output. Of tasks, workers, models, cards and the brain.

    With metrics.port set the brain serves the same; --serve is for when it does not. Every metric: docs/metrics.md.

    \b
    Examples:
      swarm metrics | grep swarm_tasks
      swarm metrics --serve --port 9464
    """
    import sys

    from swarm.brain.metrics_endpoint import open_metrics, text

    settings = existing(root, config)
    if serve:
        _serve(settings, host or settings.metrics.host, port or settings.metrics.port or DEFAULT_PORT)
        return
    sys.stdout.write(text(open_metrics(settings)))


def _serve(settings: Settings, host: str, port: int) -> None:
    import signal

    from swarm.brain.metrics_endpoint import open_metrics, serving

    wishes = {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, wishes)
    with serving(open_metrics(settings), host=host, port=port) as url:
        print(f"metrics on {url}; Ctrl-C ends", flush=True)
        signal.sigwait(wishes)
