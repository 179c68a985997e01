"""``swarm workers``: how they are; ``swarm workers release``: give a quarantined card back its work."""

# ruff: noqa: D301  (the help texts carry \b, which keeps their examples as they are)

from __future__ import annotations

from typing import Annotated

import typer

from swarm.cli.options import Config, Json, Root, existing

app = typer.Typer(rich_markup_mode=None, invoke_without_command=True)


@app.callback()
def workers(context: typer.Context, root: Root = None, config: Config = None, as_json: Json = False) -> None:
    """Workers: state, model, slots, what they do or wait for.

    \b
    Examples:
      swarm workers
      swarm workers release worker-2
    """
    if context.invoked_subcommand is not None:
        return
    from swarm.cli.render import show
    from swarm.cli.views import presenters as build
    from swarm.cli.views import screens
    from swarm.runtime.open import open_observer

    settings = existing(root, config)
    rows = build.worker_lines(open_observer(settings).snapshot(), settings)
    show({"workers": rows}, [screens.workers(rows)], as_json=as_json)


@app.command()
def release(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Workers whose cards are quarantined.")],
    root: Root = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """End the quarantine of a card before its time. Its worker takes work again within seconds.

    \b
    Example:
      swarm workers release worker-2
    """
    from pathlib import Path

    from swarm.cli.render import Line, show
    from swarm.errors import InputError, name_hint
    from swarm.ollama import quarantine
    from swarm.queue.layout import Layout
    from swarm.queue.stores import registry
    from swarm.supervisor.state import load_plan

    settings = existing(root, config)
    folder = Path(settings.queue.root) / "workers"
    known = {*registry.names(Layout(settings.queue.root)), *(p.name for p in load_plan(folder) or ())}
    known |= {note.worker for note in quarantine.all_of(folder)}
    for name in names:
        if name not in known:
            raise InputError(f"no worker is called {name}", hint=name_hint(name, sorted(known)))
    freed = {name: quarantine.release(folder, name) for name in names}
    lines = [
        f"{name}: quarantine ended ({note.reason})" if note is not None else f"{name}: is not quarantined"
        for name, note in freed.items()
    ]
    document = {"released": [name for name, note in freed.items() if note is not None]}
    show(document, [Line(text) for text in lines], as_json=as_json)
