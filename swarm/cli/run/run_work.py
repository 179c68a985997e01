"""One run at work: a swarm for it, the wait, what it wrote and what is said at its end."""

from __future__ import annotations

import sys
from collections.abc import Callable

import msgspec

from swarm.cli.facade import Outcome, RunRequest, Show
from swarm.cli.run.collect import Collected, collect, tally_words, where_words, written_document
from swarm.cli.run.host import check_models, hosting
from swarm.cli.run.report import write_report
from swarm.cli.run.unservable import check_fit, unservable_words
from swarm.cli.run.watch import RunWatch, SwarmGone
from swarm.cli.units import count, duration
from swarm.config.load import Loaded
from swarm.errors import EXIT_INTERRUPTED, EXIT_OK, EXIT_TASKS_FAILED
from swarm.formats import Scan
from swarm.queue.batches.batch_book import Submitted
from swarm.queue.batches.tally import tally
from swarm.queue.file_queue import FileQueue
from swarm.runtime.wiring import run_options


class Ran(msgspec.Struct, frozen=True):
    """How a run went. ``goes_on``: it was interrupted, and a swarm that stays up works on without it.

    ``unservable``: models that no worker can serve, with the reason; their items are left.
    """

    submitted: Submitted
    collected: Collected
    idle: bool = False
    interrupted: bool = False
    goes_on: bool = False
    unservable: dict[str, str] = {}


def work(
    loaded: Loaded,
    request: RunRequest,
    queue: FileQueue,
    scan: Scan,
    accept: Callable[[], Submitted],
    show: Show,
    began_s: float,
) -> Ran:
    """Have it worked on until it has ended or Ctrl-C is pressed; a swarm that ends with another run is replaced."""
    submitted: Submitted | None = None
    while True:
        with hosting(run_options(loaded, simulate=request.simulate, verbose=request.verbose), quiet=request.quiet) as host:
            check_models(loaded.settings, scan.models)
            check_fit(loaded.settings, scan.models)
            submitted = submitted or accept()
            try:
                ids = queue.batches().task_ids(scan.batch_id, scan.items)
                watch = RunWatch(queue, ids, loaded.settings, submitted, began_s, models=scan.models)
                end = watch.wait(show, host)
            except SwarmGone:
                if host.guest_of is None:
                    raise
                print("note: the swarm of another run has ended with that run", file=sys.stderr)
                continue
            book = queue.batches()
            collected = collect(book, scan.batch_id, str(request.output), request.errors, first=scan.items)
            if end == "finished":
                _report(queue, loaded, scan, collected)
            interrupted = end == "interrupted"
            goes_on = interrupted and host.own is None
            return Ran(submitted, collected, interrupted=interrupted, goes_on=goes_on, unservable=watch.unservable)


def _report(queue: FileQueue, loaded: Loaded, scan: Scan, collected: Collected) -> None:
    """Write the report of the whole batch, of which this run may have had the first items only."""
    book = queue.batches()
    manifest, whole = book.manifest(scan.batch_id), collected.tally
    if manifest.items > scan.items:
        whole = tally(queue.layout, queue.storage, scan.batch_id, book.task_ids(scan.batch_id))
    write_report(queue, loaded.settings, manifest, whole)


def told(scan: Scan, ran: Ran, output: str, elapsed_s: float) -> Outcome:
    """The end of a run in words, as a document and as an exit code."""
    submitted, collected, written = ran.submitted, ran.collected, ran.collected.written
    took = "" if ran.idle else f" in {duration(elapsed_s)}"
    lines = [f"batch {scan.batch_id}: {tally_words(written)}{took}"]
    if ran.idle:
        lines.append(
            f"nothing to do: every item {'had ended in' if written.without_answer else 'was done by'} an earlier run"
        )
    elif submitted.again:
        lines.append(f"resumed: {count(submitted.again)} items were known, {count(submitted.new)} are new")
    split = ", ".join(f"{worker} {count(n)}" for worker, n in sorted(collected.tally.completed.by_worker.items()))
    if split:
        lines.append(f"by worker: {split}")
    if collected.sums.tokens_in or collected.sums.tokens_out:
        sums = collected.sums
        lines.append(
            f"tokens: {count(sums.tokens_in)} in, {count(sums.tokens_out)} out; time on cards {duration(sums.card_s)}"
        )
    lines += where_words(output, collected, again="the same command with --retry-failed")
    lines += unservable_words(ran.unservable)
    if ran.unservable:
        lines.append("the same command goes on once that has changed")
    if ran.goes_on:
        again = "the same command waits for it and writes the rest"
        lines.append(f"interrupted: the swarm that is up works on; {again}, `swarm batch cancel {scan.batch_id}` ends it")
    elif ran.interrupted:
        lines.append("interrupted: run the same command again to go on where it stopped")
    document = {
        "batch_id": scan.batch_id,
        "new": submitted.new,
        "known_already": submitted.again,
        "elapsed_s": round(elapsed_s, 3),
        "interrupted": ran.interrupted,
        "unservable": ran.unservable,
        **written_document(output, collected),
    }
    failed = written.without_answer or ran.unservable
    code = EXIT_INTERRUPTED if ran.interrupted else EXIT_TASKS_FAILED if failed else EXIT_OK
    return Outcome(exit_code=code, document=document, lines=tuple(lines))
