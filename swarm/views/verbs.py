"""What an operator's verbs do and answer: cancel, retry, release, restart."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from swarm.errors import SwarmError, UnknownName, name_hint

if TYPE_CHECKING:
    from swarm.config.settings import Settings
    from swarm.engines.ollama.quarantine import Quarantine
    from swarm.queue.file_queue import FileQueue

BY_HAND = "cancelled by hand"
BATCH_BY_HAND = "batch cancelled by hand"
_ASKED = {"asked": "its worker was asked to stop it"}


class TaskDone(msgspec.Struct, frozen=True):
    """One task with which it was done."""

    task_id: str
    outcome: str


class TaskRefused(msgspec.Struct, frozen=True):
    """One with which it could not be done."""

    task_id: str
    error: str


class TasksChanged(msgspec.Struct, frozen=True, kw_only=True):
    """`swarm queue cancel` and `swarm queue retry`."""

    done: tuple[TaskDone, ...]
    refused: tuple[TaskRefused, ...]


class BatchCancelled(msgspec.Struct, frozen=True, kw_only=True):
    """`swarm batch cancel`."""

    batch_id: str
    cancelled: int
    """Waiting ones, ended at once."""
    asked: int
    """Running ones, whose workers were asked to stop them."""


class BatchRetried(msgspec.Struct, frozen=True, kw_only=True):
    """`swarm batch retry-failed`."""

    batch_id: str
    put_back: int


class CardsReleased(msgspec.Struct, frozen=True, kw_only=True):
    """`swarm workers release`."""

    released: tuple[str, ...]
    """Workers whose cards were in quarantine."""


class Restarted(msgspec.Struct, frozen=True, kw_only=True):
    """`swarm restart`."""

    restarted: tuple[str, ...]
    """A line for each process."""


def cancel_task(queue: FileQueue, task_id: str, reason: str) -> TaskDone:
    """Cancel one task. Raises ``UnknownTask``, ``QueueError`` for one that has ended."""
    done = queue.cancel(task_id, reason)
    return TaskDone(task_id, _ASKED.get(done, done))


def retry_task(queue: FileQueue, task_id: str) -> TaskDone:
    """Requeue one task. Raises ``UnknownTask``, ``QueueError`` for one that has not failed, ``LockHeld``."""
    return TaskDone(task_id, f"back in lane {queue.retry(task_id)}")


def each(ids: Iterable[str], act: Callable[[str], TaskDone], refused: Callable[[SwarmError], object]) -> TasksChanged:
    """Do it to each task; those that refuse are told to ``refused``, and the rest is done all the same."""
    done: list[TaskDone] = []
    not_done: list[TaskRefused] = []
    for task_id in ids:
        try:
            done.append(act(task_id))
        except SwarmError as problem:
            not_done.append(TaskRefused(task_id, problem.message))
            refused(problem)
    return TasksChanged(done=tuple(done), refused=tuple(not_done))


def cancel_batch(queue: FileQueue, batch: str, reason: str) -> BatchCancelled:
    """Cancel what has not ended of a batch. Raises ``QueueError`` for an unknown one."""
    done = queue.cancel_batch(batch, reason)
    return BatchCancelled(batch_id=batch, cancelled=done.cancelled, asked=done.asked)


def retry_batch(queue: FileQueue, batch: str) -> BatchRetried:
    """Requeue what failed or was cancelled of a batch. Raises ``QueueError`` for an unknown one."""
    return BatchRetried(batch_id=batch, put_back=queue.retry_many(queue.batches().task_ids(batch)))


def release_cards(settings: Settings, names: Sequence[str]) -> dict[str, Quarantine | None]:
    """End the quarantine of these workers' cards: what it was, None where there was none. Raises ``UnknownName``."""
    from swarm.engines.ollama import quarantine
    from swarm.queue.layout import Layout
    from swarm.queue.stores import registry
    from swarm.supervisor.state import load_plan

    folder = Path(settings.queue.root) / "workers"
    known = {*registry.names(Layout(settings.queue.root)), *(p.name for p in load_plan(folder) or ())}
    known |= {note.worker for note in quarantine.all_of(folder)}
    for name in names:
        if name not in known:
            raise UnknownName(f"no worker is called {name}", hint=name_hint(name, sorted(known)))
    return {name: quarantine.release(folder, name) for name in names}


def cards_released(freed: dict[str, Quarantine | None]) -> CardsReleased:
    """The document of that."""
    return CardsReleased(released=tuple(name for name, note in freed.items() if note is not None))
