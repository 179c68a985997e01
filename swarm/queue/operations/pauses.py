"""Pauses and resumes everything, a model, a batch or a worker, at an operator's word."""

from __future__ import annotations

from typing import TYPE_CHECKING

from swarm.clock import now_iso
from swarm.core.lanes import Kind, Pause, Pauses
from swarm.errors import InputError, UnknownName, name_hint
from swarm.queue.batches.batch_book import BatchBook
from swarm.queue.coordination import PauseBook, change_pauses
from swarm.queue.stores import registry

if TYPE_CHECKING:
    from swarm.queue.layout import Layout
    from swarm.queue.storage import Storage


def pause(layout: Layout, storage: Storage, kind: Kind, name: str) -> Pauses:
    """Start nothing new of it; what runs goes on. Returns all pauses; one that stands already keeps its time.

    Raises ``UnknownName`` for a batch or worker that is not there, ``QueueError``, ``StorageFault``.
    """
    _must_be_there(layout, storage, kind, name)
    new = Pause(kind, name, now_iso())
    return change_pauses(layout, storage, lambda pauses: pauses.with_one(new))


def resume(layout: Layout, storage: Storage, kind: Kind, name: str) -> tuple[Pauses, tuple[Pause, ...]]:
    """End a pause, ``all`` every one. Returns those left, and those that ended.

    Raises ``InputError`` for what is not paused, ``QueueError``, ``StorageFault``.
    """
    standing = PauseBook(layout).read()
    if kind != "all" and standing.find(kind, name) is None:
        there = ", ".join(p.words for p in standing.pauses) or "nothing is paused"
        raise InputError(f"{kind} {name} is not paused", hint=there)
    left = change_pauses(layout, storage, lambda pauses: pauses.without(kind, name))
    return left, tuple(p for p in standing.pauses if p not in left.pauses)


def _must_be_there(layout: Layout, storage: Storage, kind: Kind, name: str) -> None:
    """A pause of something misspelt would hold back nothing, in silence. A model may well have no tasks yet."""
    if kind not in ("batch", "worker"):
        return
    known = BatchBook(layout, storage).names() if kind == "batch" else list(registry.names(layout))
    if name not in known:
        raise UnknownName(f"there is no {kind} {name}", hint=name_hint(name, known))
