"""``swarm nodes``: machines whose cards are used; drain one, use it again."""

from __future__ import annotations

import typer

from swarm.cli.command_options import ShowOptions, arg
from swarm.runtime.open import open_observer
from swarm.views.blocks import Line

app = typer.Typer(rich_markup_mode=None, invoke_without_command=True)
_NODES = "Machines, as `swarm nodes` lists them."


@app.callback()
def nodes(at: ShowOptions, context: typer.Context) -> None:
    """Machines whose cards are used: phase, cards, workers, versions.

    The first is this one. Others come from [[workers]] with a url, or from Ray.

    \b
    Examples:
      swarm nodes
      swarm nodes --json | jq '.nodes[] | select(.phase != "up")'
      swarm nodes drain box2
    """
    if context.invoked_subcommand is not None:
        return
    from swarm.views.node_rows import node_list, nodes_table

    settings = at.settings()
    found = node_list(open_observer(settings).snapshot(), settings)
    at.show(found, [nodes_table(found.nodes)])


@app.command()
def drain(at: ShowOptions, names: list[str] = arg("NAME...", _NODES)) -> None:
    """Finish what runs on machines, and start nothing new there.

    They stay out until `swarm nodes resume`.

    It holds over restarts of the swarm. Cards of a Ray cluster are given back once their workers have ended.

    \b
    Example:
      swarm nodes drain box2
    """
    _change(at, names, drained=True)


@app.command()
def resume(at: ShowOptions, names: list[str] = arg("NAME...", _NODES)) -> None:
    """Use drained machines again.

    \b
    Example:
      swarm nodes resume box2
    """
    _change(at, names, drained=False)


def _change(at: ShowOptions, names: list[str], *, drained: bool) -> None:
    from swarm.views.node_drains import change_drain

    done = change_drain(at.settings(), names, drain=drained)
    at.show(done, [Line(f"{one.node}: {one.outcome}") for one in done.nodes])
