"""``swarm restart``: a fresh start for single processes of a running swarm."""

# ruff: noqa: D301  (the help texts carry \b, which keeps their examples as they are)

from __future__ import annotations

from typing import Annotated

import typer

from swarm.cli.options import Config, Json, Root, existing


def restart(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="brain, worker-1, or its server ollama-worker-1.")],
    now: Annotated[bool, typer.Option("--now", help="Do not wait for running tasks; they go back into the queue.")] = False,
    root: Root = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Restart single processes of the running swarm.

    A worker finishes its tasks first, unless --now is given. What waits for its next start, or sits in quarantine, is
    started at once. The requests of a server are cut; its worker's tasks are tried again without losing an attempt.

    \b
    Examples:
      swarm restart worker-2
      swarm restart ollama-worker-2        its model server
      swarm restart brain
    """
    from swarm.cli.facade import wiring
    from swarm.cli.render import to_json

    lines = []
    for line in wiring().restart_processes(existing(root, config), list(dict.fromkeys(names)), now=now):
        lines.append(line)
        if not as_json:
            print(line, flush=True)
    if as_json:
        print(to_json({"restarted": lines}))
