"""``swarm queue pause`` and ``resume``: hold back a model, a batch, a worker or everything.

What already runs goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from swarm.cli.command_options import ShowOptions
from swarm.cli.render import Line
from swarm.clock import now_iso
from swarm.core.lanes import Kind, Pause, Pauses
from swarm.core.task import canonical_model
from swarm.errors import InputError, name_hint

if TYPE_CHECKING:
    from swarm.queue.file_queue import FileQueue

Everything = Annotated[Literal["all"] | None, typer.Argument(metavar="[all]", help="Everything.")]
Model = Annotated[str | None, typer.Option("--model", metavar="M", help="Tasks of this model.")]
Batch = Annotated[str | None, typer.Option("--batch", metavar="B", help="Tasks of this batch.")]
Worker = Annotated[str | None, typer.Option("--worker", metavar="W", help="What this worker would claim.")]


def pause(
    at: ShowOptions,
    everything: Everything = None,
    model: Model = None,
    batch: Batch = None,
    worker: Worker = None,
) -> None:
    """Start no new tasks of a model, a batch or a worker. Running ones go on; survives restarts.

    \b
    Examples:
      swarm queue pause --model llama3.2:3b
      swarm queue pause --worker worker-2
      swarm queue pause all
    """
    from swarm.queue.coordination import change_pauses

    kind, name = _target(everything, model, batch, worker)
    queue = at.queue().must_exist()
    _must_be_there(queue, kind, name)
    now = now_iso()
    _end(at, change_pauses(queue.layout, queue.storage, lambda pauses: pauses.with_one(Pause(kind, name, now))))


def resume(
    at: ShowOptions,
    everything: Everything = None,
    model: Model = None,
    batch: Batch = None,
    worker: Worker = None,
) -> None:
    """End a pause; `all` ends all pauses.

    \b
    Example:
      swarm queue resume --model llama3.2:3b
    """
    from swarm.queue.coordination import PauseBook, change_pauses

    kind, name = _target(everything, model, batch, worker)
    queue = at.queue().must_exist()
    standing = PauseBook(queue.layout).read()
    if kind != "all" and standing.find(kind, name) is None:
        there = ", ".join(p.words for p in standing.pauses) or "nothing is paused"
        raise InputError(f"{kind} {name} is not paused", hint=there)
    left = change_pauses(queue.layout, queue.storage, lambda pauses: pauses.without(kind, name))
    ended = [p for p in standing.pauses if p not in left.pauses]
    _end(at, left, ended)


def _target(everything: str | None, model: str | None, batch: str | None, worker: str | None) -> tuple[Kind, str]:
    named: tuple[tuple[Kind, str | None], ...] = (
        ("all", None if everything is None else ""),
        ("model", None if model is None else canonical_model(model)),
        ("batch", batch),
        ("worker", worker),
    )
    given: list[tuple[Kind, str]] = [(kind, name) for kind, name in named if name is not None]
    if len(given) != 1:
        raise InputError("give exactly one of all, --model, --batch and --worker", hint="swarm queue pause all")
    return given[0]


def _must_be_there(queue: FileQueue, kind: Kind, name: str) -> None:
    """A pause of something misspelt would hold back nothing, in silence. A model may well have no tasks yet."""
    if kind not in ("batch", "worker"):
        return
    known = queue.batches().names() if kind == "batch" else list(queue.worker_names())
    if name not in known:
        raise InputError(f"there is no {kind} {name}", hint=name_hint(name, known))


def _end(at: ShowOptions, pauses: Pauses, ended: Sequence[Pause] = ()) -> None:
    lines = [Line(f"resumed: {'everything' if p.kind == 'all' else f'{p.kind} {p.name}'}") for p in ended]
    lines += [Line(f"{p.words}; ends with: {p.way_out}") for p in pauses.pauses]
    lines = lines or [Line("nothing is paused")]
    at.show({"pauses": list(pauses.pauses)}, lines)
