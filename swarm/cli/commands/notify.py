"""``swarm notify …``: notifications that wait, and those that could not be delivered."""

from __future__ import annotations

import typer

from swarm.cli.command_options import ShowOptions, arg
from swarm.views.blocks import Cell, Line, Table, columns

app = typer.Typer(
    rich_markup_mode=None,
    no_args_is_help=True,
    help="""Notifications: list, retry.

    \b
    Example:
      swarm notify list
    """,
)


@app.command(name="list")
def list_notes(at: ShowOptions) -> None:
    """Notifications that are due, and those that could not be delivered.

    \b
    Example:
      swarm notify list
    """
    from swarm.queue.stores.outbox import Outbox

    queue = at.queue()
    box = Outbox(queue.layout, queue.storage)
    found = [("waiting", note) for note in box.all_waiting()] + [("undeliverable", note) for note in box.undeliverable()]
    heads = columns("note", "state", "targets~", "tries>", "error")
    rows = tuple(
        (n.name, Cell(state, "red" if state != "waiting" else ""), ", ".join(n.targets), str(n.tries), n.error)
        for state, n in found
    )
    document = [
        {"note": n.name, "state": state, "targets": n.targets, "tries": n.tries, "error": n.error} for state, n in found
    ]
    at.show({"notes": document}, [Table(columns=heads, rows=rows, empty="no notifications are due")])


@app.command()
def retry(
    at: ShowOptions,
    notes: list[str] = arg("NOTE...", "Names as `swarm notify list` shows them."),
) -> None:
    """Retry undeliverable notifications.

    \b
    Example:
      swarm notify retry batch-prompts-1a2b3c4d
    """
    from swarm.queue.stores.outbox import Outbox

    queue = at.queue()
    box = Outbox(queue.layout, queue.storage)
    done = [box.again(name).name for name in notes]
    at.show({"retried": done}, [Line(f"{name}: tried again") for name in done])
