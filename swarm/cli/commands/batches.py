"""``swarm batches`` and ``swarm batch …``: list batches, their state and their cost."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from swarm.cli.command_options import NEEDED, ShowOptions, opt
from swarm.runtime.open import open_queue, swarm_lives
from swarm.views.blocks import Line
from swarm.views.words import count, plural

if TYPE_CHECKING:
    from swarm.config.settings import Settings
    from swarm.queue.batches.batch_book import Manifest
    from swarm.queue.batches.tally import Tally
    from swarm.queue.file_queue import FileQueue
    from swarm.views.batch_gave import Bests
    from swarm.views.batch_rows import BatchRow

app = typer.Typer(
    rich_markup_mode=None,
    no_args_is_help=True,
    help="""One batch: show, cancel, retry-failed, export.

    \b
    Examples:
      swarm batch show prompts-1a2b3c4d
      swarm batch retry-failed prompts-1a2b3c4d
    """,
)
Batch = Annotated[str, typer.Argument(metavar="BATCH", help="The batch's id; `swarm batches` lists them.")]
Price = Annotated[
    float | None,
    typer.Option("--price-per-mtok", metavar="X", min=0, help="Show a cost: price per million tokens, in and out."),
]


def batches(at: ShowOptions, price_per_mtok: Price = None) -> None:
    """All batches: progress, ETA, tokens, time on cards.

    The first call for a large batch reads all results; later ones read only what has changed.

    \b
    Examples:
      swarm batches
      swarm batches --price-per-mtok 0.20
    """
    from swarm.views.batch_rows import table

    settings = at.settings()
    queue = open_queue(settings)
    before = _active(queue)
    tallies = [_tally(queue, name) for name in queue.batches().names()]
    active = max(before, _active(queue))
    rows = tuple(_row(settings, *tally, active, price_per_mtok) for tally in tallies)
    rows = tuple(sorted(rows, key=lambda row: row.submitted_at))
    at.show({"batches": rows}, table(rows))


@app.command()
def show(at: ShowOptions, batch: Batch, price_per_mtok: Price = None) -> None:
    """One batch: progress, models, workers, cards, errors.

    And what it gave by worker and model: tokens per second, share of the best of the card, tasks at once over time, joules.

    \b
    Example:
      swarm batch show prompts-1a2b3c4d
    """
    from swarm.views.batch_gave import batch_gave, gave_blocks
    from swarm.views.batch_report import report
    from swarm.views.batch_rows import details

    settings = at.settings()
    queue = open_queue(settings)
    before = _active(queue)
    manifest, tally = _tally(queue, batch)
    row = _row(settings, manifest, tally, max(before, _active(queue)), price_per_mtok)
    found = report(queue, settings, manifest, tally)
    gave = batch_gave(tally, _bests(queue), time.time())
    at.show({"batch": row, "gave": gave, "report": found}, [*details(row, found), *gave_blocks(gave)])


@app.command()
def cancel(
    at: ShowOptions,
    batch: Batch,
    reason: str = opt("--reason", "Kept in the tasks' documents.", "batch cancelled by hand"),
) -> None:
    """Cancel a batch. Waiting items end at once; workers are asked to stop running ones.

    \b
    Example:
      swarm batch cancel prompts-1a2b3c4d
    """
    queue = at.queue()
    done = queue.cancel_many(queue.batches().task_ids(batch), reason)
    line = f"batch {batch}: {count(done.cancelled)} cancelled, {count(done.asked)} running ones asked to stop"
    at.show({"batch_id": batch, "cancelled": done.cancelled, "asked": done.asked}, [Line(line)])


@app.command(name="retry-failed")
def retry_failed(at: ShowOptions, batch: Batch) -> None:
    """Requeue failed and cancelled items. Their earlier attempts no longer count.

    \b
    Example:
      swarm batch retry-failed prompts-1a2b3c4d
    """
    queue = at.queue()
    number = queue.retry_many(queue.batches().task_ids(batch))
    line = f"batch {batch}: {plural(number, 'item')} requeued"
    at.show({"batch_id": batch, "put_back": number}, [Line(line)])


@app.command()
def export(
    at: ShowOptions,
    batch: Batch,
    output: Path = opt("-o --output OUT", "Output file.", NEEDED),
    errors: Path | None = opt("--errors FILE", "Failures of an OpenAI batch."),
) -> None:
    """Write the results so far and the report. It names models by digest, options, versions, cards.

    Exit code 1 if some tasks failed.

    \b
    Example:
      swarm batch export prompts-1a2b3c4d -o out.jsonl
    """
    from swarm.cli.run import collect

    at.check_output(output)
    at.end(collect.results(at.settings(), batch, output, errors, report=True), output)


def _tally(queue: FileQueue, batch: str) -> tuple[Manifest, Tally]:
    from swarm.queue.batches.tally import tally

    manifest = queue.batches().manifest(batch)
    return manifest, tally(queue.layout, queue.storage, batch, queue.batches().task_ids(batch))


def _bests(queue: FileQueue) -> Bests:
    """What each worker's card has shown at its best, as its last heartbeat tells."""
    from swarm.queue.stores import registry

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


def _row(settings: Settings, manifest: Manifest, tally: Tally, active: int, price_per_mtok: float | None) -> BatchRow:
    from swarm.views.batch_rows import batch_row

    return batch_row(manifest, tally, alive=swarm_lives(settings), active=active, price_per_mtok=price_per_mtok)
