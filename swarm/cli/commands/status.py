"""``swarm status``, ``workers``, ``gpus``, ``models``, ``explain``: what the swarm is and does."""

# ruff: noqa: D301  (the help texts carry \b, which keeps their examples as they are)

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from swarm.cli.options import Config, Json, Root, existing

if TYPE_CHECKING:
    from swarm.config.settings import Settings
    from swarm.core.snapshot import SwarmSnapshot


def status(root: Root = None, config: Config = None, as_json: Json = False) -> None:
    """Alarms, cards, workers, queue, throughput on one screen.

    Exit code 3 when nothing is running.

    \b
    Examples:
      swarm status
      watch -c swarm status
      swarm status --json | jq '.alarms[].text'
    """
    from swarm.cli.render import show
    from swarm.cli.views import overview, screens
    from swarm.errors import EXIT_NOT_RUNNING
    from swarm.runtime.open import lives, open_observer, open_queue
    from swarm.supervisor.what_runs import orphans

    settings = existing(root, config)
    queue = open_queue(settings)
    counts, snapshot = queue.stats(), open_observer(settings, queue).snapshot()
    view = overview.status(
        snapshot,
        counts,
        settings,
        brain=lives(settings, "brain"),
        supervisor=lives(settings, "supervisor"),
        orphans=len(orphans(settings)),
    )
    show(view, screens.status(view), as_json=as_json)
    if not view.running:
        raise typer.Exit(EXIT_NOT_RUNNING)


def gpus(root: Root = None, config: Config = None, as_json: Json = False) -> None:
    """Cards: memory, load, temperature, power, worker.

    \b
    Example:
      swarm gpus --json | jq '.gpus[] | select(.temperature_c > 80)'
    """
    from swarm.cli.options import settings
    from swarm.cli.render import Line, show
    from swarm.cli.views import presenters as build
    from swarm.cli.views import screens

    snapshot = _snapshot(settings(root, config))
    rows, note = build.card_rows(snapshot), snapshot.gpus_note
    lines = [Line(note, "yellow")] if note else []
    show({"gpus": rows, "cards_note": note}, [screens.cards(rows), *lines], as_json=as_json)


def explain(
    target: Annotated[str, typer.Argument(metavar="TASK|WORKER|MODEL", help="A task's id, a worker's or a model's name.")],
    root: Root = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Why a task waits, a worker idles, a model is where it is.

    \b
    Examples:
      swarm explain worker-3
      swarm explain d5de16d7
      swarm explain llama3.2:3b
    """
    from swarm.cli.render import show
    from swarm.cli.views import explain as explaining
    from swarm.cli.views import screens
    from swarm.core.health.liveness import workers_of
    from swarm.errors import UnknownTask
    from swarm.runtime.open import lives, open_queue

    settings = existing(root, config)
    snapshot = _snapshot(settings)
    view = next((w for w in workers_of(snapshot) if w.name == target), None)
    if view is not None:
        found = explaining.worker(view, snapshot, settings, brain=lives(settings, "brain"))
    elif explaining.is_model(target, snapshot, settings):
        found = explaining.model(target, snapshot, settings)
    else:
        queue = open_queue(settings)
        try:
            document = queue.read(target)
        except UnknownTask as unknown:
            aside = queue.set_aside(target)
            if aside is None:
                raise explaining.no_such(target, snapshot) from unknown
            found = explaining.set_aside(target, aside, settings.queue.root)
        else:
            gone = explaining.nowhere(document, queue)
            found = explaining.task(document, snapshot, settings, brain=lives(settings, "brain"), gone=gone)
    show(found, screens.explanation(found), as_json=as_json)


def _snapshot(settings: Settings) -> SwarmSnapshot:
    from swarm.runtime.open import open_observer

    return open_observer(settings).snapshot()
