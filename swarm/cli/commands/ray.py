"""``swarm ray``: the Ray driver alone."""

from __future__ import annotations

import typer

from swarm.cli.command_options import QueueOptions, Simulate, Verbose, opt, with_ray


def ray(
    at: QueueOptions,
    address: str | None = opt("--address ADDRESS", "The Ray cluster: HOST:PORT of its head, or auto. [config: ray.address]"),
    simulate: Simulate = None,
    verbose: Verbose = False,
) -> None:
    """Run the Ray driver alone, in the foreground.

    It keeps a relay on each card of a Ray cluster; `swarm up --ray` starts it for you. SIGTERM or Ctrl-C ends it, and all
    relays with their model servers.

    \b
    Examples:
      swarm ray --address 10.0.0.1:6379
      swarm ray --address auto --simulate 2     Ray nodes offer the resource swarm_card in place of GPUs
    """
    from swarm.cluster.main import run_cluster
    from swarm.errors import ConfigError
    from swarm.runtime.bootstrap import run_options

    loaded = at.load(announce=True)
    if address is not None:
        loaded = with_ray(loaded, address)
    if loaded.settings.ray.address is None:
        raise ConfigError("no Ray cluster is named", hint="--address HOST:PORT, or address in [ray]")
    options = run_options(loaded, simulate=simulate, verbose=verbose)
    raise typer.Exit(run_cluster(options, loaded.settings.ray.address))
