"""``swarm batches`` and ``swarm batch …``: list batches, their state and their cost."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from swarm.cli.command_options import NEEDED, ShowOptions, opt
from swarm.runtime.open import open_queue
from swarm.views.blocks import Line
from swarm.views.verbs import BATCH_BY_HAND
from swarm.views.words import count, plural

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

    Card time: that in which a card had at least one request of the batch.
    The first call for a large batch reads all results; later ones read only what has changed.

    \b
    Examples:
      swarm batches
      swarm batches --price-per-mtok 0.20
    """
    from swarm.views.batches.batch_documents import batch_list
    from swarm.views.batches.batch_rows import table

    settings = at.settings()
    found = batch_list(open_queue(settings), settings, price_per_mtok)
    at.show(found, table(found.batches))


@app.command()
def show(at: ShowOptions, batch: Batch, price_per_mtok: Price = None) -> None:
    """One batch: progress, models, workers, cards, errors.

    And what it gave by worker and model: tokens per second, share of the best of the card, tasks at once over time, joules.

    \b
    Example:
      swarm batch show prompts-1a2b3c4d
    """
    from swarm.views.batches.batch_documents import batch_document
    from swarm.views.batches.batch_gave import gave_blocks
    from swarm.views.batches.batch_rows import details

    settings = at.settings()
    found = batch_document(open_queue(settings), settings, batch, price_per_mtok)
    at.show(found, [*details(found.batch, found.report), *gave_blocks(found.gave)])


@app.command()
def cancel(
    at: ShowOptions,
    batch: Batch,
    reason: str = opt("--reason TEXT", "Kept in the tasks' documents.", BATCH_BY_HAND),
) -> None:
    """Cancel a batch. Waiting items end at once; workers are asked to stop running ones.

    \b
    Example:
      swarm batch cancel prompts-1a2b3c4d
    """
    from swarm.views.verbs import cancel_batch

    done = cancel_batch(at.queue(), batch, reason)
    line = f"batch {batch}: {count(done.cancelled)} cancelled, {count(done.asked)} running ones asked to stop"
    at.show(done, [Line(line)])


@app.command(name="retry-failed")
def retry_failed(at: ShowOptions, batch: Batch) -> None:
    """Requeue failed and cancelled items. Their earlier attempts no longer count.

    \b
    Example:
      swarm batch retry-failed prompts-1a2b3c4d
    """
    from swarm.views.verbs import retry_batch

    done = retry_batch(at.queue(), batch)
    at.show(done, [Line(f"batch {batch}: {plural(done.put_back, 'item')} requeued")])


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
