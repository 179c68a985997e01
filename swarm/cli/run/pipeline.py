"""`swarm run` and `submit` of a file: check all of it, submit what is new item by item, wait, write the results."""

from __future__ import annotations

import sys
import tempfile
import time
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

import msgspec

from swarm import __version__
from swarm.cli.command_options import BatchOptions, Outcome, RunRequest, SubmitRequest
from swarm.cli.run.collect import Collected, Ran, check_errors, collect, ended_words, run_outcome, why_words, write_report
from swarm.cli.run.hosting import Hosting, SwarmGone, hosting
from swarm.cli.run.input_options import LineCheck, check_options, read_options, task_fields, with_defaults
from swarm.cli.run.kept_options import note_if_kept
from swarm.cli.run.progress import Show
from swarm.cli.run.servable import check_models, unservable_words
from swarm.cli.run.single_task import note_if_nobody_works, somebody_works
from swarm.cli.run.watch import RunWatch, root_in_place
from swarm.clock import now_iso
from swarm.config.load import Loaded
from swarm.core.notification import Note
from swarm.core.task import TERMINAL, TaskState
from swarm.errors import EXIT_INTERRUPTED, EXIT_OK, EXIT_TASKS_FAILED, InputError
from swarm.formats.input.problems import Problems
from swarm.formats.input.source import Source, as_text, opened
from swarm.formats.output.writer import check_writable
from swarm.formats.tasks.links import links
from swarm.formats.tasks.scan import Scan, drafts, validate
from swarm.notify.targets import check_target
from swarm.queue.batches.batch_book import Manifest, Submitted
from swarm.queue.batches.tally import tally
from swarm.queue.file_queue import FileQueue
from swarm.queue.lookup import ended_in
from swarm.queue.stores.notifications import write_note
from swarm.runtime.bootstrap import run_options
from swarm.runtime.loop import RootGuard
from swarm.runtime.open import open_queue, swarm_lives
from swarm.views.words import count, plural

SHOWN = 3
SHOWN_CHARS = 160
Item = tuple[str, Mapping[str, Any]]


def check_request(loaded: Loaded, request: BatchOptions) -> None:
    """Reject wrong options before anything is read or started. Raises ``InputError``."""
    task_fields(request)
    check_options(loaded.settings, request)
    for target in request.notify or ():
        check_target(target, loaded.settings)


class BatchInput:
    """One input, checked as a whole."""

    def __init__(self, loaded: Loaded, request: BatchOptions, source: Source) -> None:
        """Read and check all of it; nothing is written. Raises ``InputError`` with all problems."""
        self._request = request
        self._source = source
        self._options = read_options(request, loaded.settings)
        self.queue = open_queue(loaded.settings)
        self._prefix_order = loaded.settings.llm.prefix_order
        check = LineCheck(loaded.settings)
        self.scan: Scan = validate(source, self._options, check)
        _check_line_targets(loaded, self.scan)
        check.say_unknown()
        self._links = None
        if self.scan.linked:
            self._links = links(drafts(source, self._options, self.scan), source.label, self.queue.find)
        self._defaults = task_fields(request)

    def items(self) -> Iterator[Item]:
        """Item keys and tasks in the input's order: its second reading."""
        for draft in drafts(self._source, self._options, self.scan):
            yield draft.item_key, with_defaults(draft.document, self._defaults)

    def put_back(self) -> int:
        """Retry failed and cancelled items, as far as the input is read; how many. What they wait for must be there."""
        known = self.queue.batches().known(self.scan.batch_id)
        return self.queue.retry_many(known[key] for key in self.scan.item_keys() if key in known) if known else 0

    def work_left(self, *, retried: bool) -> bool:
        """Whether any item has not ended yet, or is to be ``retried``; a batch never seen is all work."""
        known = self.queue.batches().known(self.scan.batch_id)
        ids = (known.get(key) for key in self.scan.item_keys())
        over = (TaskState.COMPLETED,) if retried else TERMINAL
        return any(task_id is None or ended_in(self.queue.layout, task_id) not in over for task_id in ids)

    def accept(self) -> Submitted:
        """Put what is new into the queue, durably. Raises ``InputError`` if the input has changed, ``StorageFault``."""
        request, scan, source = self._request, self.scan, self._source
        note_if_kept(self.queue, scan.batch_id, self.items(), self._defaults)
        manifest = Manifest(
            batch_id=scan.batch_id,
            source=as_text(source.label) if source.identity.startswith("pipe:") else source.identity,
            format=scan.format,
            created_at=now_iso(),
            models=scan.models,
            options={k: v for k, v in self._options.meaning().items() if v},
            version=__version__,
            max_fails=request.max_fails,
        )
        if request.notify:
            note = Note(subject="batch", id=scan.batch_id, targets=tuple(request.notify))
            write_note(self.queue.layout, self.queue.storage, note)
        items, keys = self.items(), None
        if request.sort != "input":
            items, keys = by_length(items, longest_first=request.sort == "longest"), scan.item_keys()
        total = Submitted(items=0, new=0, again=0)
        partial, grouped = request.limit is not None, self._prefix_order
        book = self.queue.batches()
        for total in book.submit(manifest, items, self._links, keys=keys, partial=partial, prefix_order=grouped):  # noqa: B007
            pass
        return total

    def dry_run(self) -> Outcome:
        """Counts, models and the first tasks. Nothing is written; no swarm is needed."""
        scan, queue = self.scan, self.queue
        known = queue.batches().known(scan.batch_id)
        ids = [known.get(key) for key in scan.item_keys()]
        new = ids.count(None)
        states = Counter(ended_in(queue.layout, task_id) for task_id in ids if task_id is not None)
        ended = {state: states[state] for state in TERMINAL}
        first = [dict(task) for _, task in islice(self.items(), SHOWN)]
        document = {
            "dry_run": True,
            "batch_id": scan.batch_id,
            "format": scan.format,
            "items": scan.items,
            "new": new,
            "known_already": scan.items - new,
            **{str(state): number for state, number in ended.items()},
            "models": scan.models,
            "first_tasks": first,
        }
        return Outcome(EXIT_OK, document, _dry_lines(scan, new, ended, first))


def _check_line_targets(loaded: Loaded, scan: Scan) -> None:
    """Whom the lines themselves name: refused with the first line of each before anything is accepted."""
    problems = Problems(scan.label)
    for target, line_no in scan.targets.items():
        try:
            check_target(target, loaded.settings)
        except InputError as error:
            problems.add(line_no, f"notify: {error.message.removeprefix('notify ')}")
    problems.raise_if_any()


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


def _dry_lines(scan: Scan, new: int, ended: dict[TaskState, int], first: list[dict[str, Any]]) -> tuple[str, ...]:
    waiting = scan.items - new - sum(ended.values())
    known = f", {count(sum(ended.values()))} have ended, {count(waiting)} wait or run" if new < scan.items else ""
    return (
        f"batch {scan.batch_id}: {plural(scan.items, 'item')} ({scan.format}), {count(new)} new{known}",
        *(f"model {model}: {plural(number, 'item')}" for model, number in sorted(scan.models.items())),
        *(f"task {number}: {_short(task)}" for number, task in enumerate(first, start=1)),
        "nothing was written: this was a dry run",
    )


def _short(task: dict[str, Any]) -> str:
    asked = {name: value for name, value in task.items() if name != "metadata"}
    text = msgspec.json.encode(asked).decode()
    return text if len(text) <= SHOWN_CHARS else f"{text[:SHOWN_CHARS]}…"


def run(loaded: Loaded, request: RunRequest, show: Show) -> Outcome:
    """Submit, work, collect. Raises ``InputError`` and the like before any work starts; the same call again resumes."""
    began_s = time.monotonic()
    output = _output(request)
    check_request(loaded, request)
    with opened(request.source) as source:
        batch = BatchInput(loaded, request, source)
        _check_errors(request, batch.scan, output)
        if request.dry_run:
            return batch.dry_run()
        batch.queue.prepare()
        if batch.work_left(retried=request.retry_failed):
            ran = _work(loaded, request, batch, show, began_s)
        else:
            ran = Ran(batch.accept(), _collect(request, batch), idle=True)
    return run_outcome(batch.scan.batch_id, ran, output, time.monotonic() - began_s)


def _output(request: RunRequest) -> str:
    """Where the results go, checked; empty for a dry run that names none."""
    if request.output is None:
        if not request.dry_run:
            raise InputError("-o OUT is missing", hint="name the output, such as -o out.jsonl; only --dry-run needs none")
        return ""
    check_writable(str(request.output), input_path=_input_path(request))
    return str(request.output)


def _input_path(request: RunRequest) -> str | None:
    return None if request.source == "-" else request.source


def _check_errors(request: RunRequest, scan: Scan, output: str) -> None:
    if output or request.errors is not None:
        check_errors(output, request.errors, openai=scan.format == "openai", input_path=_input_path(request))


def _work(loaded: Loaded, request: RunRequest, batch: BatchInput, show: Show, began_s: float) -> Ran:
    """Have it worked on until it has ended or Ctrl-C is pressed; a swarm that ends with another run is replaced."""
    queue, scan = batch.queue, batch.scan
    submitted: Submitted | None = None
    put_back = 0
    while True:
        with hosting(run_options(loaded, simulate=request.simulate, verbose=request.verbose), quiet=request.quiet) as host:
            guard = RootGuard(queue.layout.root)
            check_models(loaded.settings, scan.models, unfit="refuse")
            with root_in_place(guard):
                if submitted is None:  # first, for what was purged since is what retried items may wait for
                    submitted = batch.accept()
                    put_back = batch.put_back() if request.retry_failed else 0
            try:
                with root_in_place(guard):
                    ids = queue.batches().task_ids(scan.batch_id, scan.items)
                again = submitted.again
                watch = RunWatch(queue, ids, loaded.settings, began_s, again=again, models=scan.models, guard=guard)
                end = watch.wait(show, host)
            except SwarmGone:
                if host.guest_of is None:
                    raise
                print("note: the swarm of another run has ended with that run", file=sys.stderr)
                continue
            with root_in_place(guard):
                collected = _collect(request, batch)
                if end == "finished":
                    _report(queue, loaded, scan, collected)
            interrupted = end == "interrupted"
            return Ran(
                submitted,
                collected,
                put_back=put_back,
                interrupted=interrupted,
                goes_on=interrupted and host.own is None,
                unservable=watch.unservable,
            )


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
    if show is None:
        note_if_nobody_works(loaded.settings)
        return accepted
    return _wait(loaded, batch, submitted, accepted, show)


def _wait(loaded: Loaded, batch: BatchInput, submitted: Submitted, accepted: Outcome, show: Show) -> Outcome:
    """Wait for what was accepted; its end is added to what is said of it."""
    queue, scan = batch.queue, batch.scan
    if batch.work_left(retried=False):
        somebody_works(loaded.settings, accepted.lines[0], then=f"`swarm results {scan.batch_id} -o OUT`")
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
    more = why_words(ended.failed, ended.cancelled, scan.batch_id, again=f"swarm batch retry-failed {scan.batch_id}")
    more += unservable_words(watch.unservable)
    if end == "interrupted":
        more.append(f"interrupted: the swarm works on; `swarm batch cancel {scan.batch_id}` ends it")
    failed = ended.failed + ended.cancelled or watch.unservable
    code = EXIT_INTERRUPTED if end == "interrupted" else EXIT_TASKS_FAILED if failed else EXIT_OK
    return Outcome(code, document, (*accepted.lines, end_line, *more))
