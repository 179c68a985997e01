"""``swarm queue pause`` and ``resume``: hold back a model, a batch, a worker or everything.

What already runs goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from swarm.cli.command_options import ShowOptions, arg, opt
from swarm.cli.render import Line
from swarm.clock import now_iso
from swarm.core.lanes import Kind, Pause, Pauses
from swarm.core.task import canonical_model
from swarm.errors import InputError, name_hint

if TYPE_CHECKING:
    from swarm.queue.file_queue import FileQueue


@dataclass(frozen=True, kw_only=True)
class PauseTarget:
    """What is paused or resumed; exactly one of them."""

    everything: Literal["all"] | None = arg("[all]", "Everything.", None)
    model: str | None = opt("--model M", "Tasks of this model.")
    batch: str | None = opt("--batch B", "Tasks of this batch.")
    worker: str | None = opt("--worker W", "What this worker would claim.")

    def chosen(self) -> tuple[Kind, str]:
        """Its kind and name. Raises ``InputError``."""
        named: tuple[tuple[Kind, str | None], ...] = (
            ("all", None if self.everything is None else ""),
            ("model", None if self.model is None else canonical_model(self.model)),
            ("batch", self.batch),
            ("worker", self.worker),
        )
        given: list[tuple[Kind, str]] = [(kind, name) for kind, name in named if name is not None]
        if len(given) != 1:
            raise InputError("give exactly one of all, --model, --batch and --worker", hint="swarm queue pause all")
        return given[0]


def pause(at: ShowOptions, target: PauseTarget) -> None:
    """Start no new tasks of a model, a batch or a worker. Running ones go on; survives restarts.

    \b
    Examples:
      swarm queue pause --model llama3.2:3b
      swarm queue pause --worker worker-2
      swarm queue pause all
    """
    from swarm.queue.coordination import change_pauses

    kind, name = target.chosen()
    queue = at.queue().must_exist()
    _must_be_there(queue, kind, name)
    now = now_iso()
    _end(at, change_pauses(queue.layout, queue.storage, lambda pauses: pauses.with_one(Pause(kind, name, now))))


def resume(at: ShowOptions, target: PauseTarget) -> None:
    """End a pause; `all` ends all pauses.

    \b
    Example:
      swarm queue resume --model llama3.2:3b
    """
    from swarm.queue.coordination import PauseBook, change_pauses

    kind, name = target.chosen()
    queue = at.queue().must_exist()
    standing = PauseBook(queue.layout).read()
    if kind != "all" and standing.find(kind, name) is None:
        there = ", ".join(p.words for p in standing.pauses) or "nothing is paused"
        raise InputError(f"{kind} {name} is not paused", hint=there)
    left = change_pauses(queue.layout, queue.storage, lambda pauses: pauses.without(kind, name))
    ended = [p for p in standing.pauses if p not in left.pauses]
    _end(at, left, ended)


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
