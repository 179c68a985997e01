"""What `swarm run`, `submit` and `results` do: check all, submit what is new, wait, write."""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from swarm import __version__
from swarm.cli.facade import Outcome, RunRequest, Show
from swarm.cli.runwatch import RunWatch
from swarm.cli.servers import Hosting, check_models, hosting
from swarm.cli.units import count, duration
from swarm.clock import SystemClock
from swarm.configfile import Loaded
from swarm.errors import (
    EXIT_INTERRUPTED,
    EXIT_OK,
    EXIT_TASKS_FAILED,
    DuplicateTask,
    InputError,
    NotRunning,
    TaskInvalid,
)
from swarm.files import (
    Draft,
    ReadOptions,
    Scan,
    Source,
    Written,
    check_writable,
    drafts,
    errors_path_of,
    opened,
    validate,
    write_results,
)
from swarm.runtime.wiring import open_queue, run_options
from swarm.runtime.wiring.supervisor import swarm_lives
from swarm.settings import Settings
from swarm.taskqueue.batches import BatchBook, Manifest, Submitted, read_ended
from swarm.taskqueue.filequeue import FileQueue


def run(loaded: Loaded, request: RunRequest, show: Show) -> Outcome:
    """Submit, work, collect. Raises ``InputError`` and the like before any work starts; the same call again resumes."""
    began_s = time.monotonic()
    output = str(request.output)
    check_writable(output)
    with opened(request.source or "-") as source:
        options = _read_options(request)
        scan = validate(source, options)
        queue = open_queue(loaded.settings).prepare()
        book = queue.batches()
        interrupted = idle = False
        submitted = Submitted(items=scan.items, new=0, again=scan.items)
        if _work_left(queue, book, source, options, scan):
            with hosting(run_options(loaded, simulate=request.simulate, verbose=request.verbose)) as host:
                check_models(loaded.settings, scan.models)
                submitted = _submit(book, source, options, scan, request.priority)
                watch = RunWatch(queue, scan.batch_id, loaded.settings, submitted, began_s)
                interrupted = not watch.wait(show, host)
                written = _write(book, scan.batch_id, output)
        else:
            idle = True
            submitted = _submit(book, source, options, scan, request.priority)
            written = _write(book, scan.batch_id, output)
    elapsed_s = time.monotonic() - began_s
    return _report(scan, submitted, written, output, elapsed_s, interrupted=interrupted, idle=idle)


def submit(loaded: Loaded, request: RunRequest, show: Show | None) -> Outcome:
    """Put it into the queue; with ``show`` wait until it has ended. Raises ``NotRunning`` if nobody is there to wait for."""
    queue = open_queue(loaded.settings).prepare()
    if request.source is None:
        return _submit_one(queue, loaded.settings, _one_task(request), wait=show is not None)
    with opened(request.source) as source:
        options = _read_options(request)
        scan = validate(source, options)
        if swarm_lives(loaded.settings):
            check_models(loaded.settings, scan.models)
        submitted = _submit(queue.batches(), source, options, scan, request.priority)
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
    _somebody_works(loaded.settings, f"{submitted.new} tasks are accepted")
    watch = RunWatch(queue, scan.batch_id, loaded.settings, submitted, time.monotonic())
    finished = watch.wait(show, Hosting(own=None))
    ended = watch.ended
    document |= {"completed": ended.completed, "failed": ended.failed + ended.cancelled, "unfinished": ended.left}
    end_line = (
        f"{count(ended.completed)} completed, {count(ended.failed + ended.cancelled)} failed, {count(ended.left)} left"
    )
    code = EXIT_INTERRUPTED if not finished else EXIT_TASKS_FAILED if ended.failed + ended.cancelled else EXIT_OK
    return Outcome(exit_code=code, document=document, lines=(*lines, end_line))


def results(settings: Settings, batch_id: str, output: Path) -> Outcome:
    """Write what a batch has produced so far; exit code 1 if some of it failed."""
    check_writable(str(output))
    book = open_queue(settings).must_exist().batches()
    manifest = book.manifest(batch_id)
    written = _write(book, batch_id, str(output))
    scan_like = f"batch {manifest.batch_id} from {manifest.source}"
    lines = (
        f"{scan_like}: {_tally_words(written.written)}",
        *_where_words(str(output), written),
    )
    document = {"batch_id": batch_id, "source": manifest.source, **_written_document(str(output), written)}
    failed = written.written.failed
    return Outcome(exit_code=EXIT_TASKS_FAILED if failed else EXIT_OK, document=document, lines=lines)


# -- submitting ----------------------------------------------------------------------------------------------------


def _read_options(request: RunRequest) -> ReadOptions:
    return ReadOptions(
        prompt_field=request.prompt_field,
        template=request.template,
        system=request.system,
        model=request.model,
        limit=request.limit,
    )


def _items(source: Source, options: ReadOptions, scan: Scan, priority: int) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for draft in drafts(source, options, scan):
        yield draft.item_key, _document(draft, priority)


def _document(draft: Draft, priority: int) -> Mapping[str, Any]:
    return draft.document if "priority" in draft.document else {**draft.document, "priority": priority}


def _work_left(queue: FileQueue, book: BatchBook, source: Source, options: ReadOptions, scan: Scan) -> bool:
    """Whether any item of the input has not ended yet; a batch never seen is all work."""
    known = book.known(scan.batch_id)
    if not known:
        return True
    ids = (known.get(draft.item_key) for draft in drafts(source, options, scan))
    return any(task_id is None or read_ended(queue.layout, task_id) is None for task_id in ids)


def _submit(book: BatchBook, source: Source, options: ReadOptions, scan: Scan, priority: int) -> Submitted:
    manifest = Manifest(
        batch_id=scan.batch_id,
        source=source.label if source.label == "-" else os.path.abspath(source.path),
        format=scan.format,
        created_at=SystemClock().iso(),
        models=scan.models,
        options={k: v for k, v in options.meaning().items() if v},
        version=__version__,
    )
    total = Submitted(items=0, new=0, again=0)
    for total in book.submit(manifest, _items(source, options, scan, priority)):  # noqa: B007 - the last one counts
        pass
    return total


def _one_task(request: RunRequest) -> dict[str, Any]:
    if request.prompt is not None:
        if not request.model:
            raise InputError("--prompt needs --model", hint="swarm submit --prompt 'Hello' --model llama3.2:3b")
        messages = [{"role": "system", "content": request.system}] if request.system else []
        messages.append({"role": "user", "content": request.prompt})
        return {
            "task_class": "llm",
            "model": request.model,
            "request": {"messages": messages},
            "priority": request.priority,
        }
    path = str(request.task)
    try:
        data = sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
        document: dict[str, Any] = msgspec.json.decode(data, type=dict[str, Any])
    except OSError as exc:
        raise InputError(f"{path}: {exc.strerror}") from exc
    except (ValueError, RecursionError) as exc:
        raise InputError(f"{path}: not a JSON object: {exc}") from exc
    return document


def _submit_one(queue: FileQueue, settings: Settings, document: dict[str, Any], *, wait: bool) -> Outcome:
    if document.get("model") and document.get("task_class") == "llm" and swarm_lives(settings):
        check_models(settings, {str(document["model"]): 1})
    try:
        task_id = queue.enqueue(document)
    except (TaskInvalid, DuplicateTask) as exc:
        raise InputError(exc.message, hint=exc.hint) from exc
    if not wait:
        return Outcome(
            exit_code=EXIT_OK,
            document={"task_id": task_id},
            lines=(f"accepted {task_id}", f"see: swarm queue show {task_id}"),
        )
    _somebody_works(settings, f"task {task_id} is accepted")
    ended = None
    while ended is None:
        time.sleep(0.02)
        ended = read_ended(queue.layout, task_id)
    failed = ended["status"] != "completed"
    return Outcome(exit_code=EXIT_TASKS_FAILED if failed else EXIT_OK, document=ended, lines=_answer_lines(ended))


def _answer_lines(document: Mapping[str, Any]) -> tuple[str, ...]:
    if document["status"] != "completed":
        error = document.get("error") or {}
        return (f"{document['status']}: {error.get('message', 'no reason was recorded')}",)
    result = document.get("result") or {}
    text = (result.get("message") or {}).get("content") or result.get("response") or result.get("stdout") or "done"
    return (str(text), "(simulated)") if document.get("simulated") else (str(text),)


def _somebody_works(settings: Settings, accepted: str) -> None:
    if not swarm_lives(settings):
        raise NotRunning(
            f"{accepted}, but no swarm is running to work on it", hint="`swarm up` (or `swarm up --simulate 2`)"
        )


# -- collecting ----------------------------------------------------------------------------------------------------


class _Collected(msgspec.Struct, frozen=True):
    written: Written
    by_worker: dict[str, int]
    simulated: int
    tokens_in: int
    tokens_out: int


def _write(book: BatchBook, batch_id: str, output: str) -> _Collected:
    by_worker: Counter[str] = Counter()
    sums: Counter[str] = Counter()

    def pairs() -> Iterator[tuple[dict[str, Any], dict[str, Any] | None]]:
        for task, finished in book.documents(batch_id):
            if finished is not None:
                attempts = finished.get("attempts") or [{}]
                if finished["status"] == "completed":
                    by_worker[attempts[-1].get("worker", "?")] += 1
                usage = (finished.get("result") or {}).get("usage") or {}
                sums["in"] += usage.get("prompt_tokens", 0)
                sums["out"] += usage.get("completion_tokens", 0)
                sums["simulated"] += bool(finished.get("simulated"))
            yield task, finished

    written = write_results(output, pairs(), errors_path=None if output == "-" else errors_path_of(output))
    return _Collected(written, dict(sorted(by_worker.items())), sums["simulated"], sums["in"], sums["out"])


def _report(
    scan: Scan,
    submitted: Submitted,
    collected: _Collected,
    output: str,
    elapsed_s: float,
    *,
    interrupted: bool,
    idle: bool,
) -> Outcome:
    written = collected.written
    took = "" if idle else f" in {duration(elapsed_s)}"
    lines = [f"batch {scan.batch_id}: {_tally_words(written)}{took}"]
    if idle:
        lines.append("nothing to do: every item was done by an earlier run")
    elif submitted.again:
        lines.append(f"resumed: {count(submitted.again)} items were known, {count(submitted.new)} are new")
    split = ", ".join(f"{worker} {count(n)}" for worker, n in collected.by_worker.items())
    if split:
        lines.append(f"by worker: {split}")
    lines += _where_words(output, collected)
    if interrupted:
        lines.append("interrupted: run the same command again to go on where it stopped")
    document = {
        "batch_id": scan.batch_id,
        "new": submitted.new,
        "known_already": submitted.again,
        "elapsed_s": round(elapsed_s, 3),
        "interrupted": interrupted,
        **_written_document(output, collected),
    }
    code = EXIT_INTERRUPTED if interrupted else EXIT_TASKS_FAILED if written.failed else EXIT_OK
    return Outcome(exit_code=code, document=document, lines=tuple(lines))


def _tally_words(written: Written) -> str:
    words = f"{count(written.completed)} completed, {count(written.failed)} failed"
    return words + (f", {count(written.unfinished)} not finished" if written.unfinished else "")


def _where_words(output: str, collected: _Collected) -> list[str]:
    lines = [] if output == "-" else [f"results: {output} ({count(collected.written.rows)} items)"]
    if collected.written.errors_path:
        lines.append(f"failures: {collected.written.errors_path}")
    if collected.written.failed:
        lines.append("why: swarm queue list --state failed; again: swarm queue retry ID")
    if collected.simulated:
        lines.append(f"simulated: {count(collected.simulated)} of these answers come from simulated model servers")
    return lines


def _written_document(output: str, collected: _Collected) -> dict[str, Any]:
    written = collected.written
    return {
        "output": output,
        "errors_output": written.errors_path,
        "items": written.rows,
        "completed": written.completed,
        "failed": written.failed,
        "unfinished": written.unfinished,
        "by_worker": collected.by_worker,
        "tokens_in": collected.tokens_in,
        "tokens_out": collected.tokens_out,
        "simulated": collected.simulated,
    }


__all__ = ["results", "run", "submit"]
