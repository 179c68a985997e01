"""OpenAI's objects for files and batches, made of our records."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from swarm.core.batches.life import CANCELLABLE, OVER, BatchStatus
from swarm.errors import QueueError, StorageFault
from swarm.queue.batches.api_batches import ApiBatch, ShownCounts
from swarm.queue.stores.file_store import FileRecord

Reader = Callable[[str], dict[str, Any] | None]
"""The object of an id; None for what does not belong into the list."""
_MOMENTS = (
    BatchStatus.IN_PROGRESS,
    BatchStatus.FINALIZING,
    BatchStatus.COMPLETED,
    BatchStatus.FAILED,
    BatchStatus.EXPIRED,
    BatchStatus.CANCELLING,
    BatchStatus.CANCELLED,
)


def file_object(record: FileRecord) -> dict[str, Any]:
    """OpenAI's ``File``."""
    return {
        "id": record.id,
        "object": "file",
        "bytes": record.bytes,
        "created_at": record.created_at,
        "expires_at": record.expires_at,
        "filename": record.filename,
        "purpose": record.purpose,
        "status": "processed",
        "status_details": None,
    }


def batch_object(batch: ApiBatch, shown: ShownCounts, cancel_asked_at: float | None) -> dict[str, Any]:
    """OpenAI's ``Batch``. One that was asked to be cancelled shows that at once, before its driver has obeyed."""
    if batch.status in CANCELLABLE and cancel_asked_at is not None:
        batch = batch.at(BatchStatus.CANCELLING, cancel_asked_at)
    over = batch.status in OVER
    counts = ShownCounts(batch.completed, batch.failed) if over else shown
    return {
        "id": batch.id,
        "object": "batch",
        "endpoint": batch.endpoint,
        "model": next(iter(batch.models)) if len(batch.models) == 1 else None,
        "errors": {"object": "list", "data": [_problem(p) for p in batch.errors]} if batch.errors else None,
        "input_file_id": batch.input_file_id,
        "completion_window": batch.completion_window,
        "status": batch.status,
        "output_file_id": batch.output_file_id if over else None,
        "error_file_id": batch.error_file_id if over else None,
        "created_at": batch.created_at,
        "expires_at": batch.expires_at,
        **{f"{status}_at": batch.reached.get(status) for status in _MOMENTS},
        "request_counts": {"total": batch.total or 0, "completed": counts.completed, "failed": counts.failed},
        "usage": _usage(batch),
        "metadata": batch.metadata,
    }


def _problem(problem: object) -> dict[str, Any]:
    return {"code": None, "line": None, "param": None, **msgspec.to_builtins(problem)}


def _usage(batch: ApiBatch) -> dict[str, Any] | None:
    usage = batch.usage
    if usage is None:
        return None
    return {
        "input_tokens": usage.input_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens},
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage.input_tokens + usage.output_tokens,
    }


def page_of(names: Sequence[str], read: Reader, *, after: str | None, limit: int, newest_first: bool) -> dict[str, Any]:
    """A page of a list. ``names`` rise with time; only as many records are read as it takes.

    ``after`` need not exist any more. A damaged record, which fsck names, hides no other.
    """
    ordered = [name for name in names if after is None or (name < after if newest_first else name > after)]
    if newest_first:
        ordered.reverse()
    found: list[dict[str, Any]] = []
    more = False
    for name in ordered:
        try:
            document = read(name)
        except StorageFault:
            raise
        except QueueError:
            continue
        if document is None:
            continue
        if len(found) == limit:
            more = True
            break
        found.append(document)
    return {
        "object": "list",
        "data": found,
        "first_id": found[0]["id"] if found else None,
        "last_id": found[-1]["id"] if found else None,
        "has_more": more,
    }
