"""``swarm batches`` and ``swarm batch …``: list batches, their state and their cost."""

# ruff: noqa: D301  (the help texts carry \b, which keeps their examples as they are)

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from swarm.cli.common_options import Config, Json, Root, existing
from swarm.cli.render import Line
from swarm.cli.render import show as put
from swarm.cli.units import count, plural
from swarm.runtime.open import open_queue, swarm_lives

if TYPE_CHECKING:
    from swarm.cli.views.batch_rows import BatchRow
    from swarm.config.settings import Settings
    from swarm.queue.batches.batch_book import Manifest
    from swarm.queue.batches.tally import Tally
    from swarm.queue.file_queue import FileQueue

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


def batches(price_per_mtok: Price = None, root: Root = None, config: Config = None, as_json: Json = False) -> None:
    """All batches: progress, ETA, tokens, time on cards.

    The first call for a large batch reads all results; later ones read only what has changed.

    \b
    Examples:
      swarm batches
      swarm batches --price-per-mtok 0.20
    """
    from swarm.cli.views.batch_rows import table

    settings = existing(root, config)
    queue = open_queue(settings)
    before = _active(queue)
    tallies = [_tally(queue, name) for name in queue.batches().names()]
    active = max(before, _active(queue))
    rows = tuple(_row(settings, *tally, active, price_per_mtok) for tally in tallies)
    rows = tuple(sorted(rows, key=lambda row: row.submitted_at))
    put({"batches": rows}, table(rows), as_json=as_json)


@app.command()
def show(
    batch: Batch, price_per_mtok: Price = None, root: Root = None, config: Config = None, as_json: Json = False
) -> None:
    """One batch: progress, models, workers, cards, errors.

    \b
    Example:
      swarm batch show prompts-1a2b3c4d
    """
    from swarm.cli.run.collect import report
    from swarm.cli.views.batch_rows import details

    settings = existing(root, config)
    queue = open_queue(settings)
    before = _active(queue)
    manifest, tally = _tally(queue, batch)
    row = _row(settings, manifest, tally, max(before, _active(queue)), price_per_mtok)
    found = report(queue, settings, manifest, tally)
    put({"batch": row, "report": found}, details(row, found), as_json=as_json)


@app.command()
def cancel(
    batch: Batch,
    reason: Annotated[str, typer.Option("--reason", help="Kept in the tasks' documents.")] = "batch cancelled by hand",
    root: Root = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Cancel a batch. Waiting items end at once; workers are asked to stop running ones.

    \b
    Example:
      swarm batch cancel prompts-1a2b3c4d
    """
    queue = open_queue(existing(root, config))
    done = queue.cancel_many(queue.batches().task_ids(batch), reason)
    line = f"batch {batch}: {count(done.cancelled)} cancelled, {count(done.asked)} running ones asked to stop"
    put({"batch_id": batch, "cancelled": done.cancelled, "asked": done.asked}, [Line(line)], as_json=as_json)


@app.command(name="retry-failed")
def retry_failed(batch: Batch, root: Root = None, config: Config = None, as_json: Json = False) -> None:
    """Requeue failed and cancelled items. Their earlier attempts no longer count.

    \b
    Example:
      swarm batch retry-failed prompts-1a2b3c4d
    """
    queue = open_queue(existing(root, config))
    number = queue.retry_many(queue.batches().task_ids(batch))
    line = f"batch {batch}: {plural(number, 'item')} requeued"
    put({"batch_id": batch, "put_back": number}, [Line(line)], as_json=as_json)


@app.command()
def export(
    batch: Batch,
    output: Annotated[Path, typer.Option("-o", "--output", metavar="OUT", help="Output file.")],
    errors: Annotated[Path | None, typer.Option("--errors", metavar="FILE", help="Failures of an OpenAI batch.")] = None,
    root: Root = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Write the results so far and the report. It names models by digest, options, versions, cards.

    Exit code 1 if some tasks failed.

    \b
    Example:
      swarm batch export prompts-1a2b3c4d -o out.jsonl
    """
    from swarm.cli.commands.run import check_output, end
    from swarm.cli.run import collect

    check_output(output, as_json=as_json)
    end(collect.results(existing(root, config), batch, output, errors, report=True), as_json=as_json, output=output)


def _tally(queue: FileQueue, batch: str) -> tuple[Manifest, Tally]:
    from swarm.queue.batches.tally import tally

    manifest = queue.batches().manifest(batch)
    return manifest, tally(queue.layout, queue.storage, batch, queue.batches().task_ids(batch))


def _active(queue: FileQueue) -> int:
    """Tasks that have not ended, at the most: what is at work may be on the move and counts twice."""
    counts = queue.stats()
    return sum(counts.pending.values()) + counts.drop_ins + counts.blocked + 2 * sum(counts.processing.values())


def _row(settings: Settings, manifest: Manifest, tally: Tally, active: int, price_per_mtok: float | None) -> BatchRow:
    from swarm.cli.views.batch_rows import batch_row

    return batch_row(manifest, tally, alive=swarm_lives(settings), active=active, price_per_mtok=price_per_mtok)
