"""`swarm run` and `submit` of a file: check it, submit what is new, wait, write the results."""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from typing import Any

import msgspec

from swarm.cli.command_options import Outcome, RunRequest, SubmitRequest
from swarm.cli.run.batch_input import BatchInput, check_request
from swarm.cli.run.collect import Collected, collect, ended_words, tally_words, where_words, write_report, written_document
from swarm.cli.run.hosting import Hosting, SwarmGone, hosting
from swarm.cli.run.progress import Show
from swarm.cli.run.servable import check_models, unservable_words
from swarm.cli.run.single_task import somebody_works
from swarm.cli.run.watch import RunWatch
from swarm.cli.units import count, duration
from swarm.config.load import Loaded
from swarm.errors import EXIT_INTERRUPTED, EXIT_OK, EXIT_TASKS_FAILED, InputError
from swarm.formats.input.source import opened
from swarm.formats.output.writer import check_writable
from swarm.formats.tasks.scan import Scan
from swarm.queue.batches.batch_book import Submitted
from swarm.queue.batches.tally import tally
from swarm.queue.file_queue import FileQueue
from swarm.runtime.bootstrap import run_options
from swarm.runtime.open import swarm_lives


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


def run(loaded: Loaded, request: RunRequest, show: Show) -> Outcome:
    """Submit, work, collect. Raises ``InputError`` and the like before any work starts; the same call again resumes."""
    began_s = time.monotonic()
    output = _output(request)
    check_request(loaded, request)
    with opened(request.source) as source:
        batch = BatchInput(loaded, request, source)
        _check_errors(request, batch.scan)
        if request.dry_run:
            return batch.dry_run()
        batch.queue.prepare()
        put_back = batch.put_back() if request.retry_failed else 0
        if batch.work_left():
            ran = _work(loaded, request, batch, show, began_s)
        else:
            ran = Ran(batch.accept(), _collect(request, batch), idle=True)
    outcome = _outcome(batch.scan, ran, output, time.monotonic() - began_s)
    if not put_back:
        return outcome
    lines = (outcome.lines[0], f"requeued: {count(put_back)} items that had failed or been cancelled", *outcome.lines[1:])
    return replace(outcome, lines=lines, document=outcome.document | {"put_back": put_back})


def _output(request: RunRequest) -> str:
    """Where the results go, checked; empty for a dry run that names none."""
    if request.output is None:
        if not request.dry_run:
            raise InputError("-o OUT is missing", hint="name the output, such as -o out.jsonl; only --dry-run needs none")
        return ""
    check_writable(str(request.output), input_path=None if request.source == "-" else request.source)
    return str(request.output)


def _check_errors(request: RunRequest, scan: Scan) -> None:
    if request.errors is None:
        return
    if scan.format != "openai" or str(request.output).lower().endswith(".csv"):
        hint = "each line of this output has a `status` and an `error` of its own"
        raise InputError("--errors belongs to OpenAI batches", hint=hint)
    check_writable(str(request.errors))


def _work(loaded: Loaded, request: RunRequest, batch: BatchInput, show: Show, began_s: float) -> Ran:
    """Have it worked on until it has ended or Ctrl-C is pressed; a swarm that ends with another run is replaced."""
    queue, scan = batch.queue, batch.scan
    submitted: Submitted | None = None
    while True:
        with hosting(run_options(loaded, simulate=request.simulate, verbose=request.verbose), quiet=request.quiet) as host:
            check_models(loaded.settings, scan.models, unfit="refuse")
            submitted = submitted or batch.accept()
            try:
                ids = queue.batches().task_ids(scan.batch_id, scan.items)
                watch = RunWatch(queue, ids, loaded.settings, began_s, again=submitted.again, models=scan.models)
                end = watch.wait(show, host)
            except SwarmGone:
                if host.guest_of is None:
                    raise
                print("note: the swarm of another run has ended with that run", file=sys.stderr)
                continue
            collected = _collect(request, batch)
            if end == "finished":
                _report(queue, loaded, scan, collected)
            interrupted = end == "interrupted"
            goes_on = interrupted and host.own is None
            return Ran(submitted, collected, interrupted=interrupted, goes_on=goes_on, unservable=watch.unservable)


def _collect(request: RunRequest, batch: BatchInput) -> Collected:
    scan = batch.scan
    return collect(batch.queue.batches(), scan.batch_id, str(request.output), request.errors, first=scan.items)


def _report(queue: FileQueue, loaded: Loaded, scan: Scan, collected: Collected) -> None:
    """Write the report of the whole batch, of which this run may have had the first items only."""
    book = queue.batches()
    manifest, whole = book.manifest(scan.batch_id), collected.tally
    if manifest.items > scan.items:
        whole = tally(queue.layout, queue.storage, scan.batch_id, book.task_ids(scan.batch_id))
    write_report(queue, loaded.settings, manifest, whole)


def _outcome(scan: Scan, ran: Ran, output: str, elapsed_s: float) -> Outcome:
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
    if ran.unservable:
        lines += [*unservable_words(ran.unservable), "run the same command again once that has changed"]
    if ran.goes_on:
        again = "the same command waits for it and writes the rest"
        lines.append(f"interrupted: the running swarm works on; {again}, `swarm batch cancel {scan.batch_id}` ends it")
    elif ran.interrupted:
        lines.append("interrupted: run the same command again to resume")
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
    return Outcome(code, document, tuple(lines))


def submit(loaded: Loaded, request: SubmitRequest, show: Show | None) -> Outcome:
    """Put a file's tasks into the queue; with ``show`` wait until they have ended. Raises ``NotRunning`` if nobody works."""
    check_request(loaded, request)
    with opened(request.source or "-") as source:
        batch = BatchInput(loaded, request, source)
        if request.dry_run:
            return batch.dry_run()
        batch.queue.prepare()
        scan = batch.scan
        if swarm_lives(loaded.settings):
            check_models(loaded.settings, scan.models, unfit="note")
        submitted = batch.accept()
    again = f", {count(submitted.again)} known already" if submitted.again else ""
    lines = (
        f"batch {scan.batch_id}: {count(submitted.new)} tasks accepted{again}",
        f"results: swarm results {scan.batch_id} -o OUT",
    )
    document = {
        "batch_id": scan.batch_id,
        "items": scan.items,
        "accepted": submitted.new,
        "known_already": submitted.again,
    }
    accepted = Outcome(EXIT_OK, document, lines)
    return accepted if show is None else _wait(loaded, batch, submitted, accepted, show)


def _wait(loaded: Loaded, batch: BatchInput, submitted: Submitted, accepted: Outcome, show: Show) -> Outcome:
    """Wait for what was accepted; its end is added to what is said of it."""
    queue, scan = batch.queue, batch.scan
    somebody_works(loaded.settings, f"{submitted.new} tasks are accepted")
    ids = queue.batches().task_ids(scan.batch_id, scan.items)
    watch = RunWatch(queue, ids, loaded.settings, time.monotonic(), again=submitted.again, models=scan.models)
    end = watch.wait(show, Hosting(own=None))
    ended = watch.ended
    document: dict[str, Any] = {
        **accepted.document,
        "completed": ended.completed,
        "failed": ended.failed,
        "cancelled": ended.cancelled,
        "unfinished": ended.left,
        "unservable": watch.unservable,
    }
    end_line = f"{ended_words(ended.completed, ended.failed, ended.cancelled)}, {count(ended.left)} left"
    more = unservable_words(watch.unservable)
    if end == "interrupted":
        more.append(f"interrupted: the swarm works on; `swarm batch cancel {scan.batch_id}` ends it")
    failed = ended.failed + ended.cancelled or watch.unservable
    code = EXIT_INTERRUPTED if end == "interrupted" else EXIT_TASKS_FAILED if failed else EXIT_OK
    return Outcome(code, document, (*accepted.lines, end_line, *more))
