"""``swarm serve``: a model server alone, or the relay that lends this machine's cards to another one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from swarm.cli.command_options import QueueOptions, Simulate, Verbose, arg, opt
from swarm.errors import InputError

RELAY_PORT = 11500


def serve(
    at: QueueOptions,
    name: str | None = arg("[NAME]", "The worker whose model server it is; not with --relay.", None),
    relay: bool = opt("--relay", "Lend the cards of this machine to a swarm on another one.", False),
    listen: str | None = opt("--listen [HOST:]PORT", "Where the relay listens. [default: 127.0.0.1:11500]"),
    node: str | None = opt("--node NAME", "What the relay calls this machine. [default: its host name]"),
    card: str | None = opt("--card CARD", "Lend only this card: gpu0."),
    token_file: Path | None = opt("--token-file FILE", "The relay's token. [default: one made in its --root]"),
    lease_s: float | None = opt("--lease-s S", "End when nobody has asked for anything for so long.", least=1),
    watch_fd: Annotated[
        int | None, typer.Option("--watch-fd", hidden=True, min=0, help="End when the far end of this pipe is closed.")
    ] = None,
    as_json: bool = opt("--json", "Say as one JSON document where the relay serves, once it does.", False),
    simulate: Simulate = None,
    verbose: Verbose = False,
) -> None:
    """Run one worker's model server alone, or a relay, in the foreground.

    `swarm up` keeps the servers of this machine's workers by itself. A relay keeps a server on each card for the workers
    of a swarm on another machine, and shows the [[workers]] lines for it; its --root is a directory of its own.
    SIGTERM or Ctrl-C stops either.

    \b
    Examples:
      swarm serve worker-1
      swarm serve --relay --listen 10.0.0.2:11500
      swarm serve --relay --simulate 2
    """
    if relay:
        if name is not None:
            raise InputError(f"--relay lends all cards of this machine: NAME ({name}) is for a server of one worker")
        raise typer.Exit(
            _relay(at, listen, node, card, token_file, lease_s, watch_fd, simulate, as_json=as_json, verbose=verbose)
        )
    of_relay = {"--listen": listen, "--node": node, "--card": card, "--token-file": token_file, "--lease-s": lease_s}
    of_relay |= {"--watch-fd": watch_fd, "--json": as_json or None}
    for option, value in of_relay.items():
        if value is not None:
            raise InputError(f"{option} is an option of `swarm serve --relay`")
    if name is None:
        raise InputError("NAME is missing: whose model server", hint="swarm serve worker-1, or swarm serve --relay")
    from swarm.runtime.bootstrap import run_options
    from swarm.supervisor.serve import run_server

    raise typer.Exit(run_server(run_options(at.load(), simulate=simulate, verbose=verbose), name))


def _relay(
    at: QueueOptions,
    listen: str | None,
    node: str | None,
    card: str | None,
    token_file: Path | None,
    lease_s: float | None,
    watch_fd: int | None,
    simulate: int | None,
    *,
    as_json: bool,
    verbose: bool,
) -> int:
    import os

    from msgspec.structs import replace

    from swarm.config.listen import parse_listen
    from swarm.relay.main import RelayOptions, run_relay
    from swarm.relay.relay_plan import node_name, relay_settings
    from swarm.relay.relay_root import default_root
    from swarm.runtime.bootstrap import run_options

    loaded = at.load(announce=not as_json)
    root = (at.root or default_root(os.environ)).absolute()
    loaded = replace(loaded, settings=relay_settings(loaded.settings, root, simulated=simulate is not None))
    options = RelayOptions(
        run=run_options(loaded, simulate=simulate, verbose=verbose),
        listen=parse_listen(listen or str(RELAY_PORT), "--listen", "127.0.0.1", least=0),
        node=node_name(node),
        card=card,
        token_file=token_file,
        lease_s=lease_s,
        watch_fd=watch_fd,
        as_json=as_json,
    )
    return run_relay(options)
