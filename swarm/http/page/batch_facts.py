"""What pages show of batches: as the client of one sees it, where it can be downloaded, failures by reason. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple
from urllib.parse import quote

import msgspec

from swarm.core.batches.life import CANCELLABLE, OVER
from swarm.queue.batches.api_batches import ApiBatch
from swarm.views.batches.batch_rows import BatchRow
from swarm.views.task_rows import TaskRow

PLACE_CHARS = 120


class Offers(NamedTuple):
    """What can be done with a batch: paths; None for what cannot be done (now)."""

    output: str | None
    errors: str | None
    cancel: str | None
    retry: str | None


class FailureGroup(NamedTuple):
    """Tasks of a batch that ended in the same way for the same reason."""

    state: str
    reason: str
    example: str
    """The whole error of one of them."""
    rows: list[TaskRow]


def as_client_sees(row: BatchRow, batch: ApiBatch | None) -> BatchRow:
    """The row of a batch that was created over HTTP: its status, and its size before all of it is in the queue."""
    if batch is None:
        return row
    items = max(batch.total or 0, row.items)
    ended = row.items - row.left
    return msgspec.structs.replace(
        row, state=str(batch.status), items=items, left=items - ended, progress=round(ended / items, 4) if items else 0.0
    )


def offers(row: BatchRow | None, batch: ApiBatch | None) -> Offers:
    """By its state. Files of a batch that was created over HTTP do not change once it is over: nothing of it is retried."""
    if batch is not None:
        files = (batch.output_file_id, batch.error_file_id) if batch.status in OVER else (None, None)
        output, errors = (f"/v1/files/{quote(name, safe='')}/content" if name else None for name in files)
        cancel = f"/v1/batches/{quote(batch.id, safe='')}/cancel" if batch.status in CANCELLABLE else None
        return Offers(output, errors, cancel, None)
    assert row is not None
    verbs = f"/swarm/batches/{quote(row.batch_id, safe='')}"
    ended = not row.left
    return Offers(
        None, None, None if ended else f"{verbs}/cancel", f"{verbs}/retry" if row.failed or row.cancelled else None
    )


def failure_groups(rows: Iterable[TaskRow]) -> list[FailureGroup]:
    """The largest first; failed ones before cancelled ones. What an error says in brackets differs from task to task."""
    groups: dict[tuple[str, str], list[TaskRow]] = {}
    for row in rows:
        reason = (row.error or "no reason is recorded").partition(" (")[0]
        groups.setdefault((row.state, reason[:PLACE_CHARS]), []).append(row)
    found = [FailureGroup(state, reason, rows[0].error or "", rows) for (state, reason), rows in groups.items()]
    return sorted(found, key=lambda group: (group.state != "failed", -len(group.rows)))
