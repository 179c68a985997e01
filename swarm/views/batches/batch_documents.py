"""The documents of `swarm batches` and `swarm batch show`, and of ``GET /swarm/batches``."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import msgspec

from swarm.queue.batches.tally import Tally, tally
from swarm.queue.stores import registry
from swarm.runtime.open import swarm_lives
from swarm.views.batches.batch_gave import BatchGave, Bests, batch_gave
from swarm.views.batches.batch_report import report
from swarm.views.batches.batch_rows import BatchRow, batch_row
from swarm.views.node_words import nodes_of_workers

if TYPE_CHECKING:
    from swarm.config.settings import Settings
    from swarm.queue.batches.batch_book import Manifest
    from swarm.queue.file_queue import FileQueue

_Counted = TypeVar("_Counted")


class BatchList(msgspec.Struct, frozen=True, kw_only=True):
    """`swarm batches`."""

    batches: tuple[BatchRow, ...]
    """The oldest first."""


class BatchView(NamedTuple):
    """How one batch stands; made from what the queue holds, without asking a model server."""

    manifest: Manifest
    tally: Tally
    row: BatchRow
    gave: BatchGave


class BatchDocument(msgspec.Struct, frozen=True, kw_only=True):
    """`swarm batch show`."""

    batch: BatchRow
    gave: BatchGave
    report: dict[str, Any]


def batch_list(queue: FileQueue, settings: Settings, price_per_mtok: float | None = None) -> BatchList:
    """All batches. The first call for a large one reads all results; later ones read only what has changed."""
    tallies, active = _counted(queue, lambda: [_tally(queue, name) for name in queue.batches().names()])
    alive = swarm_lives(settings)
    rows = (batch_row(*found, alive=alive, active=active, price_per_mtok=price_per_mtok) for found in tallies)
    return BatchList(batches=tuple(sorted(rows, key=lambda row: row.submitted_at)))


def batch_view(queue: FileQueue, settings: Settings, batch: str, price_per_mtok: float | None = None) -> BatchView:
    """One batch. Raises ``QueueError`` for an unknown one."""
    (manifest, found), active = _counted(queue, lambda: _tally(queue, batch))
    alive = swarm_lives(settings)
    row = batch_row(manifest, found, alive=alive, active=active, price_per_mtok=price_per_mtok)
    return BatchView(manifest, found, row, batch_gave(found, _bests(queue), time.time(), nodes_of_workers(queue.layout)))


def batch_document(queue: FileQueue, settings: Settings, batch: str, price_per_mtok: float | None = None) -> BatchDocument:
    """One batch with its report; asks the model servers for their versions. Raises ``QueueError`` for an unknown one."""
    manifest, found, row, gave = batch_view(queue, settings, batch, price_per_mtok)
    return BatchDocument(batch=row, gave=gave, report=report(queue, settings, manifest, found))


def _counted(queue: FileQueue, count: Callable[[], _Counted]) -> tuple[_Counted, int]:
    """What is counted, and how many tasks had not ended meanwhile, at the most."""
    before = _active(queue)
    found = count()
    return found, max(before, _active(queue))


def _tally(queue: FileQueue, batch: str) -> tuple[Manifest, Tally]:
    manifest = queue.batches().manifest(batch)
    return manifest, tally(queue.layout, queue.storage, batch, queue.batches().task_ids(batch))


def _bests(queue: FileQueue) -> Bests:
    """What each worker's card has shown at its best, as its last heartbeat tells."""
    beats = {name: registry.read_heartbeat(queue.layout, name) for name in registry.names(queue.layout)}
    return {
        (name, model): tuned.best_tokens_per_s
        for name, beat in beats.items()
        for model, tuned in (beat.tuned.items() if beat is not None else ())
        if tuned.best_tokens_per_s > 0
    }


def _active(queue: FileQueue) -> int:
    """Tasks that have not ended, at the most: what is at work may be on the move and counts twice."""
    counts = queue.stats()
    return sum(counts.pending.values()) + counts.drop_ins + counts.blocked + 2 * sum(counts.processing.values())
