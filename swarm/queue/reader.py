"""One queue root, opened to look: what commands need that change nothing. Imports little, so that a quick look is quick."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

from swarm.core.task import TaskState
from swarm.errors import NotRunning
from swarm.queue import lookup, root
from swarm.queue.layout import Layout
from swarm.queue.lookup import Located
from swarm.queue.storage.files import Storage

if TYPE_CHECKING:
    from swarm.queue.corrupt import SetAside
    from swarm.queue.stats.counts import Census, Counts


class QueueReader:
    """Find, read, list, count."""

    def __init__(self, root_path: str, durability: str = "full") -> None:
        self.layout = Layout(root_path)
        self.storage = Storage(durability, self.layout.root)

    def must_exist(self) -> Self:
        """For commands that only look. Raises ``NotRunning`` when there is no queue at this root."""
        if not root.exists(self.layout):
            raise NotRunning(
                f"there is no queue at {self.layout.root}",
                hint="name another root with --root, or start one with `swarm up`",
            )
        return self

    def find(self, task_id: str) -> Located | None:
        """Where a task is."""
        return lookup.find(self.layout, task_id)

    def read(self, task_id: str) -> dict[str, Any]:
        """A whole document with its ``state``. Raises ``UnknownTask``, ``TaskInvalid``."""
        return lookup.read(self.layout, task_id)

    def set_aside(self, task_id: str) -> SetAside | None:
        """Where the file of a task lies that was set aside as corrupt and is nowhere else."""
        from swarm.queue.corrupt import find_set_aside  # noqa: PLC0415  (see the docstring of the module)

        return find_set_aside(self.layout, task_id)

    def why_corrupt(self, name: str) -> str:
        """Why this file lies in ``corrupt/``; empty where nobody wrote it down."""
        from swarm.queue.corrupt import read_set_aside  # noqa: PLC0415  (see the docstring of the module)

        return read_set_aside(self.layout, name).reason

    def list(self, state: TaskState) -> Iterator[Located]:
        """All tasks of one state; streams."""
        return lookup.list_state(self.layout, state)

    def stats(self) -> Counts:
        """Counts of everything; what did not change since an earlier call, or an earlier command's, is not listed again."""
        return self.census.count()

    @cached_property
    def census(self) -> Census:
        """What is known of the counts of this queue; brain views made from it may share it."""
        from swarm.queue.stats.counts import Census  # noqa: PLC0415  (see the docstring of the module)

        return Census(self.layout, self.storage)
