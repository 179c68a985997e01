"""Where each command is, and loading it when it is first asked for: most runs of `swarm` need one of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any

import typer
from typer.main import get_command, get_group

from swarm.cli.arguments import guard
from swarm.cli.values import lighten

PLACES = {
    "run": "commands.run:run",
    "submit": "commands.run:submit",
    "results": "commands.run:results",
    "batches": "commands.batches:batches",
    "batch": "commands.batches:app",
    "notify": "commands.notify:app",
    "feed": "commands.feed:feed",
    "feeds": "commands.feed:feeds",
    "up": "commands.up:up",
    "down": "commands.up:down",
    "restart": "commands.up:restart",
    "status": "commands.status:status",
    "top": "top.command:top",
    "workers": "commands.workers:app",
    "gpus": "commands.status:gpus",
    "models": "commands.models:app",
    "explain": "commands.status:explain",
    "doctor": "commands.doctor:doctor",
    "logs": "commands.logs:logs",
    "metrics": "commands.metrics:metrics",
    "queue": "commands.queue:app",
    "config": "commands.config:app",
    "brain": "commands.up:brain",
    "worker": "commands.up:worker",
    "serve": "commands.up:serve",
    "sim": "commands.up:sim",
}
"""By name, in the order of the help: a module of this package, and in it a function or a ``typer.Typer``."""


class Commands(Mapping[str, Any]):
    """All of them, as typer wants them: by name."""

    def __init__(self) -> None:
        self._made: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:  # noqa: ANN401  (the class of commands moved house between versions of typer)
        if name not in self._made:
            self._made[name] = _make(name, PLACES[name])
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(PLACES)

    def __len__(self) -> int:
        return len(PLACES)


def _make(name: str, place: str) -> Any:  # noqa: ANN401
    module, _, attribute = place.partition(":")
    found = getattr(import_module(f"swarm.cli.{module}"), attribute)
    if isinstance(found, typer.Typer):
        command: Any = get_group(found)
    else:
        alone = typer.Typer(add_completion=False, rich_markup_mode=None)
        alone.command(name)(found)
        command = get_command(alone)
    command.name = name
    lighten(command)
    guard(command)
    return command
