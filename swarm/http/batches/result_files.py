"""Writes output and error file of a batch: each ``custom_id`` of its input file on one line of one of them."""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping
from contextlib import ExitStack
from typing import Any

import msgspec

from swarm.core.batches.life import BatchStatus
from swarm.formats.output.rows import output_line, usage_of
from swarm.http.batches.requests import item_key, numbered_lines
from swarm.queue import lookup
from swarm.queue.batches.api_batches import ApiBatch, TokenUsage
from swarm.queue.file_queue import FileQueue
from swarm.queue.storage import storage_faults
from swarm.queue.stores.file_store import FileRecord, FileStore, Incoming

_PAUSE_EVERY = 50
_encode = msgspec.json.Encoder().encode
_NOT_RUN = {
    BatchStatus.CANCELLED: ("batch_cancelled", "This request was not run: the batch was cancelled."),
    BatchStatus.EXPIRED: ("batch_expired", "This request could not be executed before the completion window expired."),
    BatchStatus.COMPLETED: ("task_lost", "The record of this request was removed or damaged: `swarm queue fsck`."),
}


class _Line(msgspec.Struct):
    custom_id: str


_decode = msgspec.json.Decoder(_Line).decode


class Results(msgspec.Struct, kw_only=True):
    """What was written."""

    completed: int = 0
    failed: int = 0
    usage: TokenUsage = msgspec.field(default_factory=TokenUsage)


def write_results(
    queue: FileQueue, store: FileStore, batch: ApiBatch, known: Mapping[str, str]
) -> Generator[None, None, Results | None]:
    """Write both files anew, those without a line not at all; yields now and then. Flat memory.

    ``known``: task ids by item key. None, and no files: some request has not ended (any more), since it is being retried.
    Raises ``StorageFault``.
    """
    assert batch.output_file_id is not None
    assert batch.error_file_id is not None
    results = Results()
    with ExitStack() as stack:
        output, errors = (
            stack.enter_context(store.incoming(file_id)) for file_id in (batch.output_file_id, batch.error_file_id)
        )
        for number, (_, text) in enumerate(numbered_lines(store.content_path(batch.input_file_id))):
            if number % _PAUSE_EVERY == 0:
                yield
            custom_id = _decode(text).custom_id
            task_id = known.get(item_key(custom_id))
            try:
                finished = None if task_id is None else _finished(queue, task_id)
            except _NotEndedError:
                return None
            _add(results, output, errors, _line_of(batch, custom_id, finished))
        for file_id in (batch.error_file_id, batch.output_file_id):
            store.remove(file_id)  # of an earlier try, which may have seen other outcomes
        now_s = int(time.time())
        for name, new in (("error", errors), ("output", output)):
            if new.size:
                new.publish(_record(batch, name, new, now_s))
    return results


class _NotEndedError(Exception):
    pass


def _finished(queue: FileQueue, task_id: str) -> Mapping[str, Any] | None:
    """None for a task that is nowhere, or whose document is damaged. Raises ``_NotEndedError``, ``StorageFault``."""
    with storage_faults(f"task {task_id} cannot be read"):
        try:
            finished = lookup.read_ended(queue.layout, task_id)
        except ValueError:
            return None
        if finished is None and lookup.find(queue.layout, task_id) is not None:
            raise _NotEndedError
        return finished


def _add(
    results: Results, output: Incoming, errors: Incoming, entry: tuple[dict[str, Any], Mapping[str, Any] | None]
) -> None:
    line, good = entry
    (output if good is not None else errors).write(_encode(line) + b"\n")
    if good is None:
        results.failed += 1
        return
    results.completed += 1
    usage = usage_of(good) or {}
    results.usage.input_tokens += usage.get("prompt_tokens") or 0
    results.usage.output_tokens += usage.get("completion_tokens") or 0
    results.usage.cached_tokens += (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0


def _line_of(
    batch: ApiBatch, custom_id: str, finished: Mapping[str, Any] | None
) -> tuple[dict[str, Any], Mapping[str, Any] | None]:
    """The line, and the result if it is a success."""
    if finished is not None:
        line, good = output_line(finished, finished)
        if good:
            return line, finished["result"]
        if finished.get("status") != "cancelled" or batch.ending is BatchStatus.COMPLETED:
            return line, None
    assert batch.ending is not None
    code, message = _NOT_RUN[batch.ending]
    made = f"batch_req_{item_key(custom_id)}" if finished is None else f"batch_req_{finished.get('task_id')}"
    error = {"code": code, "message": message}
    return {"id": made, "custom_id": custom_id, "response": None, "error": error}, None


def _record(batch: ApiBatch, name: str, new: Incoming, now_s: int) -> FileRecord:
    return FileRecord(
        id=new.file_id,
        filename=f"{batch.id}_{name}.jsonl",
        bytes=new.size,
        purpose="batch_output",
        created_at=now_s,
        expires_at=None if batch.output_expires_s is None else now_s + batch.output_expires_s,
        client=batch.client,
        batch_id=batch.id,
    )
