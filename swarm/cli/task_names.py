"""What a user means by the name of a task: its id, the path of its file, the beginning of an id, the name of a batch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import chain, islice
from typing import TYPE_CHECKING

from swarm.core.task import TaskState
from swarm.errors import QueueError, UnknownTask

if TYPE_CHECKING:
    from swarm.queue.file_queue import FileQueue

LEAST_CHARS = 4
SUGGESTED = 3
SEARCHED = 200_000
"""Tasks looked at for one that begins like that: of a million it may take seconds to find none."""


@contextmanager
def meant(queue: FileQueue, text: str) -> Iterator[str]:
    """The task's id, for what is done in the block; its ``UnknownTask`` then says what was probably meant."""
    task_id = _of_file(text) or text
    try:
        yield task_id
    except UnknownTask as unknown:
        unknown.hint = _near(queue, task_id) or unknown.hint
        raise


def _of_file(text: str) -> str | None:
    from swarm.queue.lookup import task_of

    return task_of(text.rpartition("/")[2]) if text.endswith(".json") else None


def _near(queue: FileQueue, text: str) -> str:
    with suppress(QueueError):
        if text in queue.batches().names():
            return f"that is a batch: `swarm batch show {text}`"
        if len(text) >= LEAST_CHARS:
            every = chain.from_iterable(queue.list(state) for state in TaskState if state is not TaskState.CORRUPT)
            alike = (one.task_id for one in islice(every, SEARCHED) if one.task_id.startswith(text))
            found = list(dict.fromkeys(islice(alike, SUGGESTED)))
            return f"did you mean {' or '.join(found)}?" if found else ""
    return ""
