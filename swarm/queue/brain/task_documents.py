"""Reads documents of claimed tasks and waiting loads, once each: class, model, load target."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice

import msgspec

from swarm.core.placement.demand import resource_task
from swarm.core.snapshot import ClaimView, ResourceTask
from swarm.core.task import Task, canonical_model
from swarm.errors import OddEntry, TaskInvalid
from swarm.queue import codec
from swarm.queue.layout import Layout, parse_task_file
from swarm.queue.lookup import list_lane
from swarm.queue.storage import read_regular

MOST_SHOWN = 64
"""Tasks of one worker's lane."""


class TaskDocuments:
    """For one thread; remembers what lay there at the last look. A file that is no task has no class, and is no load."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._claims: dict[str, ClaimView] = {}
        self._loads: dict[str, ResourceTask | None] = {}

    def claims(self, held: Mapping[str, Iterable[str]]) -> tuple[ClaimView, ...]:
        """What workers hold, given the names in their directories."""
        before, self._claims = self._claims, {}
        for worker, names in held.items():
            for name in names:
                path = f"{self._layout.held_by(worker)}/{name}"
                view = before.get(path) or self._claim(path, name, worker)
                if view is not None:
                    self._claims[path] = view
        return tuple(self._claims.values())

    def loads(self, lanes: Iterable[str]) -> dict[str, tuple[ResourceTask, ...]]:
        """What waits in these resource lanes, by lane."""
        before, self._loads = self._loads, {}
        found = {}
        for lane in lanes:
            paths = [located.path for located in islice(list_lane(self._layout, lane), MOST_SHOWN)]
            here = {path: before[path] if path in before else self._load(path) for path in paths}
            self._loads |= here
            found[lane] = tuple(load for load in here.values() if load is not None)
        return found

    def _claim(self, path: str, name: str, worker: str) -> ClaimView | None:
        parsed = parse_task_file(name)
        if parsed is None:
            return None
        try:
            task = _read(path)
        except (FileNotFoundError, OddEntry):
            return None
        claim = ClaimView(task_id=parsed.task_id, attempt=parsed.attempt, worker=worker)
        if task is None:
            return claim
        model = canonical_model(task.model) if task.model else None
        return msgspec.structs.replace(claim, task_class=task.task_class, name=task.name, model=model)

    def _load(self, path: str) -> ResourceTask | None:
        try:
            task = _read(path)
        except (FileNotFoundError, OddEntry):
            return None
        return None if task is None else resource_task(task)


def _read(path: str) -> Task | None:
    """The task; None for a file that cannot be read or understood, which is for others to report."""
    try:
        return codec.parse(read_regular(path, codec.MAX_FILE_BYTES)).task
    except (FileNotFoundError, OddEntry):
        raise
    except (OSError, TaskInvalid, ValueError):
        return None
