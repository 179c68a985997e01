"""``--dry-run``: what would be done, from reading alone."""

from __future__ import annotations

import os
from collections.abc import Mapping
from itertools import islice
from typing import Any

import msgspec

from swarm.cli.submission import Outcome
from swarm.cli.units import count, plural
from swarm.core.task import TERMINAL, TaskState
from swarm.errors import EXIT_OK
from swarm.formats.input.options import ReadOptions
from swarm.formats.input.source import Source
from swarm.formats.tasks.scan import Scan, drafts
from swarm.queue.file_queue import FileQueue

SHOWN = 3
SHOWN_CHARS = 160


def dry_run(
    queue: FileQueue, source: Source, options: ReadOptions, scan: Scan, defaults: Mapping[str, Any] | None = None
) -> Outcome:
    """Counts, models and the first tasks of a checked input. Nothing is written; no swarm is needed.

    ``defaults``: fields of tasks whose lines do not say otherwise.
    """
    known = queue.batches().known(scan.batch_id)
    ended: dict[TaskState, int] = dict.fromkeys(TERMINAL, 0)
    new = 0
    for key in scan.item_keys():
        task_id = known.get(key)
        new += task_id is None
        for state in TERMINAL:
            if task_id is not None and os.path.lexists(queue.layout.terminal(state, task_id)):
                ended[state] += 1
                break
    first = [{**(defaults or {}), **draft.document} for draft in islice(drafts(source, options, scan), SHOWN)]
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
    return Outcome(exit_code=EXIT_OK, document=document, lines=_lines(scan, new, ended, first))


def _lines(scan: Scan, new: int, ended: dict[TaskState, int], first: list[dict[str, Any]]) -> tuple[str, ...]:
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
