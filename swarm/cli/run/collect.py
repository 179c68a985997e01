"""Writing what a batch has produced, and what it has cost on the way."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from swarm.cli.run.report import saved, write_report
from swarm.cli.submission import Outcome
from swarm.cli.units import count, duration, plural
from swarm.config.settings import Settings
from swarm.core.task import TaskState
from swarm.errors import EXIT_OK, EXIT_TASKS_FAILED
from swarm.formats.output.atomic_file import check_writable
from swarm.formats.output.writer import Written, errors_path_of, write_results
from swarm.queue.batches.batch_book import BatchBook
from swarm.queue.batches.tally import Sums, Tally
from swarm.runtime.open import open_queue


class Collected(msgspec.Struct, frozen=True):
    """What was written, and the sums over it."""

    written: Written
    tally: Tally

    @property
    def sums(self) -> Sums:
        """Over all that has ended."""
        return self.tally.all


def results(settings: Settings, batch_id: str, output: Path, errors: Path | None = None, *, report: bool = False) -> Outcome:
    """Write what a batch has produced so far; exit code 1 if some of it failed. ``report``: its report is written, too."""
    check_writable(str(output))
    queue = open_queue(settings).must_exist()
    book = queue.batches()
    manifest = book.manifest(batch_id)
    collected = collect(book, batch_id, str(output), errors)
    lines = (
        f"batch {manifest.batch_id} from {manifest.source}: {tally_words(collected.written)}",
        *where_words(str(output), collected, again=f"swarm batch retry-failed {batch_id}"),
    )
    document = {"batch_id": batch_id, "source": manifest.source, **written_document(str(output), collected)}
    if report:
        document["report"] = write_report(queue, settings, manifest, collected.tally)
        lines = (*lines, f"report: {document['report']}")
    code = EXIT_TASKS_FAILED if collected.written.without_answer else EXIT_OK
    return Outcome(exit_code=code, document=document, lines=lines)


def collect(
    book: BatchBook, batch_id: str, output: str, errors: Path | None = None, *, first: int | None = None
) -> Collected:
    """Write the output (of the ``first`` items) in the input's order, failures of an OpenAI batch to ``errors`` (else beside
    the output).
    """
    sums = {"completed": Sums(), "failed": Sums(), "cancelled": Sums()}

    def pairs() -> Iterator[tuple[dict[str, Any], dict[str, Any] | None]]:
        for task, finished in book.documents(batch_id, first):
            if finished is not None:
                sums[finished["status"]].note(finished)
            yield task, finished

    aside = str(errors) if errors is not None else None if output == "-" else errors_path_of(output)
    written = write_results(output, pairs(), errors_path=aside)
    for part in sums.values():
        part.settle()
    completed, failed, cancelled = (sums[str(s)] for s in (TaskState.COMPLETED, TaskState.FAILED, TaskState.CANCELLED))
    return Collected(written, Tally(completed=completed, failed=failed, cancelled=cancelled, left=written.unfinished))


def tally_words(written: Written) -> str:
    """``40 completed, 0 failed``; what there is none of otherwise is left out."""
    words = ended_words(written.completed, written.failed, written.cancelled)
    return words + (f", {count(written.unfinished)} not finished" if written.unfinished else "")


def ended_words(completed: int, failed: int, cancelled: int) -> str:
    """The three ways in which tasks end, counted."""
    words = f"{count(completed)} completed, {count(failed)} failed"
    return words + (f", {count(cancelled)} cancelled" if cancelled else "")


def where_words(output: str, collected: Collected, *, again: str) -> list[str]:
    """Where the results are, and what to do about failures: ``again`` has them done once more."""
    lines = [] if output == "-" else [f"results: {output} ({plural(collected.written.rows, 'item')})"]
    if collected.written.errors_path:
        lines.append(f"failures: {collected.written.errors_path}")
    if collected.written.without_answer:
        if kinds := ", ".join(f"{kind} {count(n)}" for kind, n in sorted(collected.sums.errors.items())):
            lines.append(f"failed with: {kinds}")
        state = "failed" if collected.written.failed else "cancelled"
        lines.append(f"why: swarm queue list {state}; again: {again}")
    lines += saved_words(collected.sums)
    if collected.sums.simulated:
        lines.append(f"simulated: {count(collected.sums.simulated)} of these answers come from simulated model servers")
    return lines


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
        "completed": written.completed,
        "failed": written.failed,
        "cancelled": written.cancelled,
        "unfinished": written.unfinished,
        "by_worker": dict(sorted(collected.tally.completed.by_worker.items())),
        "tokens_in": sums.tokens_in,
        "tokens_out": sums.tokens_out,
        "card_s": round(sums.card_s, 3),
        "cached": saved(sums),
        "simulated": sums.simulated,
    }
