"""The documents of `swarm X --json` and ``GET /swarm/X`` that are made from one look at the swarm."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from swarm.core.health.liveness import stuck, workers_of
from swarm.core.workflow.feed import FeedState
from swarm.errors import UnknownTask
from swarm.runtime.open import lives
from swarm.views import explanations, model_rows
from swarm.views.explanations import Explanation
from swarm.views.model_rows import ModelRow
from swarm.views.queue_rows import QueueStats, queue_stats
from swarm.views.task_rows import ActiveRow, active_rows
from swarm.views.worker_rows import CardRow, WorkerLine, card_rows, worker_lines

if TYPE_CHECKING:
    from swarm.config.settings import Settings
    from swarm.core.snapshot import SwarmSnapshot
    from swarm.queue.file_queue import FileQueue


class CardList(msgspec.Struct, frozen=True, kw_only=True):
    """`swarm gpus`."""

    at: str
    """When it was looked at."""
    gpus: tuple[CardRow, ...]
    cards_note: str
    """Which of the machine's cards these are and why, where they are not all."""


class WorkerList(msgspec.Struct, frozen=True, kw_only=True):
    """`swarm workers`."""

    at: str
    workers: tuple[WorkerLine, ...]


class ModelList(msgspec.Struct, frozen=True, kw_only=True):
    """`swarm models`."""

    at: str
    models: tuple[ModelRow, ...]


class ActiveList(msgspec.Struct, frozen=True, kw_only=True):
    """`swarm queue active`."""

    at: str
    tasks: tuple[ActiveRow, ...]


class FeedRow(FeedState, frozen=True, kw_only=True):
    """One feed."""

    alive: bool
    """Its feeder runs."""


class FeedList(msgspec.Struct, frozen=True, kw_only=True):
    """`swarm feeds`."""

    feeds: tuple[FeedRow, ...]


def card_list(snapshot: SwarmSnapshot) -> CardList:
    """All cards."""
    return CardList(at=snapshot.now_iso, gpus=card_rows(snapshot), cards_note=snapshot.gpus_note)


def worker_list(snapshot: SwarmSnapshot, settings: Settings) -> WorkerList:
    """All workers."""
    return WorkerList(at=snapshot.now_iso, workers=worker_lines(snapshot, settings))


def model_list(snapshot: SwarmSnapshot, settings: Settings) -> ModelList:
    """All models; asks the model servers what lies on their disks, ``model_rows.ASK_S`` at most."""
    rows = model_rows.model_rows(snapshot, model_rows.installed_models(snapshot, settings))
    return ModelList(at=snapshot.now_iso, models=rows)


def active_list(snapshot: SwarmSnapshot, settings: Settings) -> ActiveList:
    """What the workers hold."""
    return ActiveList(at=snapshot.now_iso, tasks=active_rows(snapshot, settings))


def stats(queue: FileQueue, snapshot: SwarmSnapshot, settings: Settings) -> QueueStats:
    """The queue in numbers. Raises ``StorageFault``."""
    return queue_stats(queue.stats(), stuck_tasks=len(stuck(snapshot, settings)))


def feed_list(queue: FileQueue) -> FeedList:
    """All feeds. Raises ``QueueError`` for one that cannot be read."""
    from swarm.queue.stores.feeds import FeedBook

    book = FeedBook(queue.layout, queue.storage)
    found = ((book.state(name), book.lives(name)) for name in book.names())
    return FeedList(feeds=tuple(FeedRow(**msgspec.structs.asdict(state), alive=alive) for state, alive in found))


def explain(target: str, snapshot: SwarmSnapshot, settings: Settings, queue: FileQueue) -> Explanation:
    """Why a task, worker or model is as it is. Raises ``InputError`` or ``UnknownTask`` for what is none of them."""
    view = next((w for w in workers_of(snapshot) if w.name == target), None)
    if view is not None:
        return explanations.worker(view, snapshot, settings, brain=lives(settings, "brain"))
    without = explanations.card_without_worker(target, settings)
    if without is not None:
        return without
    if explanations.is_model(target, snapshot, settings):
        return explanations.model(target, snapshot, settings)
    try:
        document = queue.read(target)
    except UnknownTask as unknown:
        aside = queue.quarantined(target)
        if aside is None:
            raise explanations.no_such(target, snapshot) from unknown
        return explanations.quarantined(target, aside, settings.queue.root)
    missing = explanations.missing_dependency(document, queue)
    return explanations.task(document, snapshot, settings, brain=lives(settings, "brain"), missing=missing)
