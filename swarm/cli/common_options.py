"""The options most commands share, and the settings they lead to."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from swarm.errors import NotRunning

if TYPE_CHECKING:
    from swarm.config.load import Loaded
    from swarm.config.settings import Settings

Root = Annotated[
    Path | None,
    typer.Option("--root", metavar="DIR", help="Queue directory. [default: $SWARM_ROOT, the config's queue.root, ./queue]"),
]
Config = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="Configuration. [default: $SWARM_CONFIG, config/swarm.toml if it exists]"),
]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on standard output, nothing else.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Log at DEBUG: claim attempts, lost races, heartbeats.")]
Simulate = Annotated[
    int | None,
    typer.Option("--simulate", metavar="N", min=1, max=256, help="N simulated cards, each with a simulated model server."),
]


def load(root: Path | None, config: Path | None) -> Loaded:
    """File, environment and options read; raises ``ConfigError``."""
    from swarm.config.load import load as load_file

    return load_file(config, os.environ, root)


def say_found(loaded: Loaded) -> None:
    """Report a configuration found in the current directory, since it decides what is started."""
    if loaded.found:
        print(f"configuration: {loaded.path}", file=sys.stderr)


def existing(root: Path | None, config: Path | None) -> Settings:
    """The settings in force, for commands that look at a queue that is there. Raises ``NotRunning`` if it is not."""
    found = load(root, config).settings
    if not os.path.isdir(found.queue.root):
        hint = "start one with `swarm up` (or `swarm up --simulate 2`), or name its directory with --root"
        raise NotRunning(f"there is no queue at {found.queue.root}", hint=hint)
    return found
