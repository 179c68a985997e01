"""Writes the results of a batch and its report.

The report names models by digest, options, versions, cards, counts and tokens.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from swarm.cli.command_options import Outcome
from swarm.cli.run.servable import unservable_words
from swarm.config.settings import Settings
from swarm.errors import EXIT_INTERRUPTED, EXIT_OK, EXIT_TASKS_FAILED, InputError
from swarm.formats.output.writer import Written, check_writable, errors_path_of, write_results
from swarm.queue.batches.batch_book import BatchBook, Manifest, Submitted
from swarm.queue.batches.tally import Sums, Tally
from swarm.queue.file_queue import FileQueue
from swarm.runtime.open import open_queue
from swarm.views.batches.batch_report import report as report_of
from swarm.views.batches.batch_report import saved
from swarm.views.words import count, duration, plural


class Collected(msgspec.Struct, frozen=True):
    """What was written, and the sums over it."""

    written: Written
    tally: Tally

    @property
    def sums(self) -> Sums:
        """Over all that has ended."""
        return self.tally.all


def check_errors(output: str, errors: Path | None, *, openai: bool, input_path: str | None) -> None:
    """Check where the failures of an OpenAI batch will go. Raises ``InputError``, also where nothing goes to ``errors``."""
    if openai and not output.lower().endswith(".csv"):
        check_writable(errors_path_of(output) if errors is None else str(errors), input_path=input_path)
    elif errors is not None:
        hint = "each line of this output has a `status` and an `error` of its own"
        raise InputError("--errors belongs to OpenAI batches", hint=hint)


def results(settings: Settings, batch_id: str, output: Path, errors: Path | None = None, *, report: bool = False) -> Outcome:
    """Write what a batch has produced so far; exit code 1 if some of it failed. ``report``: its report is written, too."""
    queue = open_queue(settings).must_exist()
    book = queue.batches()
    manifest = book.manifest(batch_id)
    source = manifest.source if os.path.isabs(manifest.source) else None  # no other names a file of its own
    check_writable(str(output), input_path=source)
    check_errors(str(output), errors, openai=manifest.format == "openai", input_path=source)
    collected = collect(book, batch_id, str(output), errors)
    lines = (
        f"batch {manifest.batch_id} from {manifest.source}: {tally_words(collected.written)}",
        *where_words(str(output), collected, batch_id, again=f"swarm batch retry-failed {batch_id}"),
    )
    document = {"batch_id": batch_id, "source": manifest.source, **written_document(str(output), collected)}
    if report:
        document["report"] = write_report(queue, settings, manifest, collected.tally)
        lines = (*lines, f"report: {document['report']}")
    code = EXIT_TASKS_FAILED if collected.written.without_answer else EXIT_OK
    return Outcome(code, document, lines)


def collect(
    book: BatchBook, batch_id: str, output: str, errors: Path | None = None, *, first: int | None = None
) -> Collected:
    """Write the output (of the ``first`` items) in the input's order, failures of an OpenAI batch to ``errors`` (else beside
    the output).
    """
    sums = {"completed": Sums(), "failed": Sums(), "cancelled": Sums()}

    def pairs() -> Iterator[tuple[dict[str, Any], dict[str, Any] | None]]:
        for task, finished in book.documents(batch_id, first):
            if finished is not None and finished["status"] in sums:
                sums[finished["status"]].note(finished)
            yield task, finished

    openai = book.manifest(batch_id).format == "openai"
    written = write_results(output, pairs(), openai=openai, errors_path=None if errors is None else str(errors))
    for part in sums.values():
        part.settle()
    return Collected(written, Tally(**sums, left=written.unfinished))


def tally_words(written: Written) -> str:
    """``40 completed, 0 failed``; what there is none of otherwise is left out."""
    words = ended_words(written.completed, written.failed, written.cancelled)
    return words + (f", {count(written.unfinished)} not finished" if written.unfinished else "")


def ended_words(completed: int, failed: int, cancelled: int) -> str:
    """The three ways in which tasks end, counted."""
    words = f"{count(completed)} completed, {count(failed)} failed"
    return words + (f", {count(cancelled)} cancelled" if cancelled else "")


def where_words(output: str, collected: Collected, batch_id: str, *, again: str) -> list[str]:
    """Where the results are, and what to do about failures: ``again`` has them done once more."""
    lines = [] if output == "-" else [f"results: {output} ({plural(collected.written.rows, 'item')})"]
    if collected.written.errors_path:
        lines.append(f"failures: {collected.written.errors_path}")
    if collected.written.damaged:
        records = plural(collected.written.damaged, "record")
        lines.append(f"damaged: {records}, of which the output has a row with an error; see `swarm queue fsck`")
    if kinds := ", ".join(f"{kind} {count(n)}" for kind, n in sorted(collected.sums.errors.items())):
        lines.append(f"failed with: {kinds}")
    lines += why_words(collected.written.failed, collected.written.cancelled, batch_id, again=again)
    lines += saved_words(collected.sums)
    if collected.sums.simulated:
        lines.append(f"simulated: {count(collected.sums.simulated)} of these answers come from simulated model servers")
    return lines


def why_words(failed: int, cancelled: int, batch_id: str, *, again: str) -> list[str]:
    """Where the reasons are, if some have not completed."""
    state = "failed" if failed else "cancelled"
    return [f"why: swarm queue list {state} --batch {batch_id}; again: {again}"] if failed or cancelled else []


def saved_words(sums: Sums) -> list[str]:
    """What the cache has saved; nothing where it was of no use."""
    if not sums.cached:
        return []
    tokens = f"{count(sums.saved_in)} tokens in, {count(sums.saved_out)} out"
    return [f"cache: {plural(sums.cached, 'request')} answered before; saved {tokens}, {duration(sums.saved_s)} of requests"]


def written_document(output: str, collected: Collected) -> dict[str, Any]:
    """The same for ``--json``."""
    written, sums = collected.written, collected.sums
    return {
        "output": output,
        "errors_output": written.errors_path,
        "items": written.rows,
        **{name: getattr(written, name) for name in ("completed", "failed", "cancelled", "unfinished", "damaged")},
        "by_worker": dict(sorted(collected.tally.completed.by_worker.items())),
        "tokens_in": sums.tokens_in,
        "tokens_out": sums.tokens_out,
        "card_s": round(sums.card_s, 3),
        "cached": saved(sums),
        "simulated": sums.simulated,
    }


class Ran(msgspec.Struct, frozen=True):
    """How a run went. ``goes_on``: it was interrupted, and a swarm that stays up works on without it.

    ``unservable``: models that no worker can serve, with the reason; their items are left.
    """

    submitted: Submitted
    collected: Collected
    put_back: int = 0
    """Items that had failed or been cancelled, and were retried."""
    idle: bool = False
    interrupted: bool = False
    goes_on: bool = False
    unservable: dict[str, str] = {}


def run_outcome(batch_id: str, ran: Ran, output: str, elapsed_s: float) -> Outcome:
    """The end of a run in words, as a document and as an exit code."""
    submitted, collected, written = ran.submitted, ran.collected, ran.collected.written
    took = "" if ran.idle else f" in {duration(elapsed_s)}"
    lines = [f"batch {batch_id}: {tally_words(written)}{took}"]
    if ran.put_back:
        lines.append(f"requeued: {count(ran.put_back)} items that had failed or been cancelled")
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
    lines += where_words(output, collected, batch_id, again="the same command with --retry-failed")
    if ran.unservable:
        lines += [*unservable_words(ran.unservable), "run the same command again once that has changed"]
    if ran.goes_on:
        again = "the same command waits for it and writes the rest"
        lines.append(f"interrupted: the running swarm works on; {again}, `swarm batch cancel {batch_id}` ends it")
    elif ran.interrupted:
        lines.append("interrupted: run the same command again to resume")
    document = {
        "batch_id": batch_id,
        "new": submitted.new,
        "known_already": submitted.again,
        "elapsed_s": round(elapsed_s, 3),
        "interrupted": ran.interrupted,
        "unservable": ran.unservable,
        **({"put_back": ran.put_back} if ran.put_back else {}),
        **written_document(output, collected),
    }
    failed = written.without_answer or ran.unservable
    code = EXIT_INTERRUPTED if ran.interrupted else EXIT_TASKS_FAILED if failed else EXIT_OK
    return Outcome(code, document, tuple(lines))


def write_report(queue: FileQueue, settings: Settings, manifest: Manifest, tally: Tally) -> str:
    """Write ``batches/<id>.report.json`` and return its path. Raises ``OSError``."""
    path = f"{queue.layout.batches}/{manifest.batch_id}.report.json"
    data = msgspec.json.format(msgspec.json.encode(report_of(queue, settings, manifest, tally)), indent=2) + b"\n"
    queue.storage.replace(path, data, durable=True)
    return path
