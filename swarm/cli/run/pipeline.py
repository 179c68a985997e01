"""What `swarm run`, `submit` and `results` do: check all, submit what is new, wait, write.

One run at work: a swarm for it, the wait, what it wrote and what is said at its end.

Submitting in another order than the input's: by length, in memory that does not grow with the texts.
"""

from __future__ import annotations

import sys
import tempfile
import time
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Literal

import msgspec

from swarm import __version__
from swarm.cli.run.collect import Collected, collect, ended_words, results, tally_words, where_words, written_document
from swarm.cli.run.dry_run import dry_run
from swarm.cli.run.host import Hosting, hosting
from swarm.cli.run.input_options import LineCheck, check_options, read_options, task_fields, with_defaults
from swarm.cli.run.progress import Show
from swarm.cli.run.report import write_report
from swarm.cli.run.servable import check_models, unservable_words
from swarm.cli.run.single_task import somebody_works
from swarm.cli.run.watch import RunWatch, SwarmGone
from swarm.cli.submission import BatchOptions, Outcome, RunRequest, SubmitRequest
from swarm.cli.units import count, duration
from swarm.clock import SystemClock
from swarm.config.load import Loaded
from swarm.core.notification import Note
from swarm.core.task import ID_RE
from swarm.core.workflow.dag import Links
from swarm.errors import EXIT_INTERRUPTED, EXIT_OK, EXIT_TASKS_FAILED, InputError
from swarm.formats.input.options import ReadOptions
from swarm.formats.input.problems import Problems
from swarm.formats.input.source import Source, as_text, opened
from swarm.formats.output.atomic_file import check_writable
from swarm.formats.tasks.links import links
from swarm.formats.tasks.scan import Scan, drafts, validate
from swarm.notify.targets import check_target
from swarm.queue.batches.batch_book import BatchBook, Manifest, Submitted
from swarm.queue.batches.tally import tally
from swarm.queue.file_queue import FileQueue
from swarm.queue.lookup import read_ended
from swarm.queue.stores.notifications import write_note
from swarm.runtime.bootstrap import run_options
from swarm.runtime.open import open_queue, swarm_lives

Sort = Literal["input", "longest", "shortest"]
Item = tuple[str, Mapping[str, Any]]


def by_length(items: Iterable[Item], *, longest_first: bool) -> Iterator[Item]:
    """The items by the length of their requests, equal ones in the input's order. Memory: some 60 bytes an item.

    They go through a temporary file. Raises ``InputError`` for items whose order means something.
    """
    offsets, lengths = array("Q", [0]), array("q")
    with tempfile.TemporaryFile(prefix="swarm-sort-") as spool:
        for key, document in items:
            if document.get("session") or document.get("depends_on"):
                raise InputError("--sort would change the order within sessions and dependencies", hint="leave --sort out")
            lengths.append(len(msgspec.json.encode(document.get("request"))))
            offsets.append(offsets[-1] + spool.write(msgspec.json.encode((key, document))))
        for at in sorted(range(len(lengths)), key=lambda i: -lengths[i] if longest_first else lengths[i]):
            spool.seek(offsets[at])
            found: Item = msgspec.json.decode(spool.read(offsets[at + 1] - offsets[at]), type=tuple[str, dict[str, Any]])
            yield found


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
            check_models(loaded.settings, scan.models, unfit="refuse")
            submitted = submitted or accept()
            try:
                ids = queue.batches().task_ids(scan.batch_id, scan.items)
                watch = RunWatch(queue, ids, loaded.settings, began_s, again=submitted.again, models=scan.models)
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


def run(loaded: Loaded, request: RunRequest, show: Show) -> Outcome:
    """Submit, work, collect. Raises ``InputError`` and the like before any work starts; the same call again resumes."""
    began_s = time.monotonic()
    output = _output(request)
    _check_targets(loaded, request)
    with opened(request.source) as source:
        options = read_options(request)
        scan = _checked(loaded, source, options)
        _check_errors(request, scan)
        linked = _links(open_queue(loaded.settings), source, options, scan)
        if request.dry_run:
            return dry_run(open_queue(loaded.settings), source, options, scan, task_fields(request))
        queue = open_queue(loaded.settings).prepare()
        book = queue.batches()
        put_back = _put_back(queue, scan) if request.retry_failed else 0

        def accept() -> Submitted:
            return _submit(queue, source, options, scan, request, linked)

        if _work_left(queue, book, scan):
            ran = work(loaded, request, queue, scan, accept, show, began_s)
        else:
            submitted = accept()
            ran = Ran(submitted, collect(book, scan.batch_id, output, request.errors, first=scan.items), idle=True)
    outcome = told(scan, ran, output, time.monotonic() - began_s)
    if not put_back:
        return outcome
    lines = (outcome.lines[0], f"put back: {count(put_back)} items that had failed or been cancelled", *outcome.lines[1:])
    return replace(outcome, lines=lines, document=outcome.document | {"put_back": put_back})


def _output(request: RunRequest) -> str:
    """Where the results go, checked; empty for a dry run that names none."""
    if request.output is None:
        if not request.dry_run:
            raise InputError(
                "-o OUT is missing", hint="say where the results go, such as -o out.jsonl; --dry-run alone needs none"
            )
        return ""
    check_writable(str(request.output), input_path=None if request.source == "-" else request.source)
    return str(request.output)


def _check_targets(loaded: Loaded, request: BatchOptions) -> None:
    task_fields(request)  # refuses what is no time before anything is read or started
    check_options(loaded.settings, request)
    for target in request.notify or ():
        check_target(target, loaded.settings)


def _checked(loaded: Loaded, source: Source, options: ReadOptions) -> Scan:
    """The whole input, read and checked. Raises ``InputError`` with all problems."""
    check = LineCheck(loaded.settings)
    scan = validate(source, options, check)
    _check_line_targets(loaded, scan)
    check.say_unknown()
    return scan


def _check_line_targets(loaded: Loaded, scan: Scan) -> None:
    """Who the lines themselves name: refused with the first line of each before anything is accepted."""
    problems = Problems(scan.label)
    for target, line_no in scan.targets.items():
        try:
            check_target(target, loaded.settings)
        except InputError as error:
            problems.add(line_no, "notify", error.message.removeprefix("notify "))
    problems.raise_if_any()


def _check_errors(request: RunRequest, scan: Scan) -> None:
    if request.errors is None:
        return
    if scan.format != "openai" or str(request.output).lower().endswith(".csv"):
        hint = "each line of this output has a `status` and an `error` of its own"
        raise InputError("--errors belongs to OpenAI batches", hint=hint)
    check_writable(str(request.errors))


def _put_back(queue: FileQueue, scan: Scan) -> int:
    """Retry failed and cancelled items of this input, as far as it is read; how many."""
    known = queue.batches().known(scan.batch_id)
    return queue.retry_many(known[key] for key in scan.item_keys() if key in known) if known else 0


def submit(loaded: Loaded, request: SubmitRequest, show: Show | None) -> Outcome:
    """Put a file's tasks into the queue; with ``show`` wait until they have ended. Raises ``NotRunning`` if nobody works."""
    _check_targets(loaded, request)
    queue = open_queue(loaded.settings)
    with opened(request.source or "-") as source:
        options = read_options(request)
        scan = _checked(loaded, source, options)
        linked = _links(queue, source, options, scan)
        if request.dry_run:
            return dry_run(queue, source, options, scan, task_fields(request))
        queue.prepare()
        if swarm_lives(loaded.settings):
            check_models(loaded.settings, scan.models, unfit="note")
        submitted = _submit(queue, source, options, scan, request, linked)
    lines = (
        f"batch {scan.batch_id}: {count(submitted.new)} tasks accepted"
        + (f", {count(submitted.again)} known already" if submitted.again else ""),
        f"results: swarm results {scan.batch_id} -o OUT",
    )
    document: dict[str, Any] = {
        "batch_id": scan.batch_id,
        "items": scan.items,
        "accepted": submitted.new,
        "known_already": submitted.again,
    }
    if show is None:
        return Outcome(exit_code=EXIT_OK, document=document, lines=lines)
    somebody_works(loaded.settings, f"{submitted.new} tasks are accepted")
    ids = queue.batches().task_ids(scan.batch_id, scan.items)
    watch = RunWatch(queue, ids, loaded.settings, time.monotonic(), again=submitted.again, models=scan.models)
    end = watch.wait(show, Hosting(own=None))
    ended = watch.ended
    document |= {
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
    return Outcome(exit_code=code, document=document, lines=(*lines, end_line, *more))


def _work_left(queue: FileQueue, book: BatchBook, scan: Scan) -> bool:
    """Whether any item of the input has not ended yet; a batch never seen is all work."""
    known = book.known(scan.batch_id)
    ids = (known.get(key) for key in scan.item_keys())
    return any(task_id is None or read_ended(queue.layout, task_id) is None for task_id in ids)


def _links(queue: FileQueue, source: Source, options: ReadOptions, scan: Scan) -> Links | None:
    def exists(task_id: str) -> bool:
        return ID_RE.match(task_id) is not None and queue.find(task_id) is not None

    return links(source, options, scan, exists)


def _submit(
    queue: FileQueue, source: Source, options: ReadOptions, scan: Scan, request: BatchOptions, linked: Links | None
) -> Submitted:
    book = queue.batches()
    manifest = Manifest(
        batch_id=scan.batch_id,
        source=as_text(source.label) if source.identity.startswith("pipe:") else source.identity,
        format=scan.format,
        created_at=SystemClock().iso(),
        models=scan.models,
        options={k: v for k, v in options.meaning().items() if v},
        version=__version__,
        max_fails=request.max_fails,
    )
    if request.notify:
        write_note(queue.layout, queue.storage, Note(subject="batch", id=scan.batch_id, targets=tuple(request.notify)))
    defaults = task_fields(request)
    items: Iterator[Item] = (
        (draft.item_key, with_defaults(draft.document, defaults)) for draft in drafts(source, options, scan)
    )
    keys = None
    if request.sort != "input":
        items, keys = by_length(items, longest_first=request.sort == "longest"), scan.item_keys()
    total = Submitted(items=0, new=0, again=0)
    for total in book.submit(manifest, items, linked, keys=keys, partial=request.limit is not None):  # noqa: B007
        pass
    return total


__all__ = ["results", "run", "submit"]
