"""The results of a ``map``: an iterator over them as they finish, or in the order of the items."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Self

from swarm.api.result import Result, result_of
from swarm.api.waiting import Alive, as_ended
from swarm.errors import UnknownTask
from swarm.queue.layout import Layout
from swarm.queue.lookup import read_ended


class Results(Iterator[Result]):
    """Iterate once: results as they finish. Memory: the ids; documents are read when their turn comes."""

    def __init__(self, layout: Layout, batch_id: str, task_ids: list[str], alive: Alive) -> None:
        self.batch_id = batch_id
        """For ``swarm batch show``, ``swarm results``, and for calling ``map`` again with ``batch=`` to go on."""
        self._layout = layout
        self._ids = task_ids
        self._alive = alive
        self._stream: Iterator[Result] | None = None

    def __len__(self) -> int:
        """How many items there are."""
        return len(self._ids)

    def __iter__(self) -> Self:
        """Itself."""
        return self

    def __next__(self) -> Result:
        """The next that finished. Raises ``EngineError`` or ``NotRunning`` when nobody works on it any more."""
        if self._stream is None:
            self._stream = self._finished()
        return next(self._stream)

    def ordered(self) -> Iterator[Result]:
        """The same in the order of the items: each as soon as it and all before it have ended."""
        ended: set[str] = set()
        arriving = as_ended(self._layout, self._ids, self._alive, None)
        for index, task_id in enumerate(self._ids):
            while task_id not in ended:
                ended.add(next(arriving))
            ended.discard(task_id)
            yield read_result(self._layout, task_id, index)

    def _finished(self) -> Iterator[Result]:
        places = {task_id: index for index, task_id in enumerate(self._ids)}
        for task_id in as_ended(self._layout, self._ids, self._alive, None):
            yield read_result(self._layout, task_id, places[task_id])


def read_result(layout: Layout, task_id: str, index: int | None = None) -> Result:
    """The result of a task that has ended. Raises ``UnknownTask`` if its record was removed since."""
    document = read_ended(layout, task_id)
    if document is None:
        raise UnknownTask(
            f"the record of task {task_id} is gone", hint="was it purged, or put back with `swarm queue retry`?"
        )
    return result_of(document, index)
