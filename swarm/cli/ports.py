"""What the commands ask of the rest of the program, as Protocols. Imports nothing that takes time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from swarm.core.snapshot import SwarmSnapshot
    from swarm.core.task import TaskState


class Counts(Protocol):
    """``queue.stats()``."""

    @property
    def pending(self) -> Mapping[str, int]:
        """Waiting tasks by lane."""
        ...

    @property
    def processing(self) -> Mapping[str, int]:
        """Claimed tasks by worker."""
        ...

    @property
    def blocked(self) -> int: ...
    @property
    def completed(self) -> int: ...
    @property
    def failed(self) -> int: ...
    @property
    def cancelled(self) -> int: ...
    @property
    def corrupt(self) -> int: ...
    @property
    def drop_ins(self) -> int: ...
    @property
    def oldest_pending_s(self) -> float | None: ...


class Located(Protocol):
    """Where a task's file lies."""

    @property
    def task_id(self) -> str: ...
    @property
    def state(self) -> TaskState: ...
    @property
    def path(self) -> str: ...
    @property
    def attempt(self) -> int: ...
    @property
    def worker(self) -> str | None: ...
    @property
    def lane(self) -> str | None: ...


class Reader(Protocol):
    """The queue as a person looks at it."""

    def stats(self) -> Counts:
        """Everything counted."""
        ...

    def find(self, task_id: str) -> Located | None:
        """Where this task is; None: nowhere."""
        ...

    def read(self, task_id: str) -> dict[str, Any]:
        """The whole document plus ``state``. Raises ``UnknownTask``."""
        ...

    def set_aside(self, task_id: str) -> SetAside | None:
        """The file of a task that was set aside as corrupt and is nowhere else."""
        ...

    def why_corrupt(self, name: str) -> str:
        """Why this file lies in ``corrupt/``; empty where nobody wrote it down."""
        ...

    def list(self, state: TaskState) -> Iterator[Located]:
        """Files of one state, first in line first; streams."""
        ...


class Queue(Reader, Protocol):
    """The queue as a person looks at it and corrects it."""

    def cancel(self, task_id: str, reason: str) -> str:
        """``cancelled``, or ``asked`` where its worker was asked to. Raises ``UnknownTask``, ``QueueError``."""
        ...

    def retry(self, task_id: str) -> str:
        """Put a failed or cancelled task back; returns its lane. Raises ``UnknownTask``, ``QueueError``."""
        ...

    def uncancel(self, task_id: str) -> None:
        """Take back the wish that a running task be cancelled."""
        ...

    def purge(self, states: Iterable[TaskState], *, older_than_s: float, dry: bool) -> Mapping[TaskState, Removed]:
        """Remove finished documents that ended longer ago. Raises ``InputError`` for a state that is not terminal."""
        ...

    def purge_batches(self, *, older_than_s: float, purged: Iterable[TaskState] = (), dry: bool = False) -> tuple[str, ...]:
        """Remove the files of batches of which nothing is left; ids."""
        ...


class SetAside(Protocol):
    """A file in ``corrupt/``."""

    @property
    def name(self) -> str: ...
    @property
    def words(self) -> str: ...


class Removed(Protocol):
    """How much a purge took."""

    @property
    def documents(self) -> int: ...
    @property
    def size_bytes(self) -> int: ...


class Observer(Protocol):
    """Looks at everything once."""

    def snapshot(self) -> SwarmSnapshot:
        """The swarm now."""
        ...
