"""The supervisor's children: the states they can be in, what is shown of them, and what they must be able to do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Protocol

import msgspec

from swarm.core.worker import ProcessIdentity, WorkerRow
from swarm.proc.child import Exit


class ChildState(StrEnum):
    """Where a process is in its life, in the words of the field."""

    STARTING = "starting"
    RUNNING = "running"
    BACKOFF = "backoff"
    """Waits before its next start; ``reason`` says for what."""
    STOPPING = "stopping"
    EXITED = "exited"
    """Ended, and not to be started again."""
    QUARANTINED = "quarantined"
    """Never got ready several times in a row; tried again much later."""


class ChildStatus(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One process, as ``swarm status`` shows it."""

    name: str
    role: str
    state: ChildState
    since: str
    """When it came into this state, ISO 8601."""
    reason: str = ""
    pid: int | None = None
    restarts: int = 0
    last_exit: str | None = None


class Supervised(Protocol):
    """A process that can be kept running. No method waits for long."""

    name: str
    role: str

    @property
    def identity(self) -> ProcessIdentity | None:
        """The living process, None while there is none."""
        ...

    @property
    def pidfd(self) -> int | None:
        """Readable once it has ended."""
        ...

    def adopt(self) -> str | None:
        """Take over one that runs already and fits; a line for the log, None: there is none. Raises ``SwarmError``."""
        ...

    def start(self) -> str:
        """Adopt a running one or start a new one; returns a line for the log. Raises ``SwarmError``."""
        ...

    def ready(self) -> bool:
        """Whether it does its work."""
        ...

    def overdue(self) -> str | None:
        """Why its start must be given up, or None."""
        ...

    def worked(self) -> bool:
        """Whether it has begun its work in this life; still known when it has ended, until ``clean_up``."""
        ...

    def poll(self) -> Exit | None:
        """How it ended, or None while it runs."""
        ...

    def drain(self) -> None:
        """Ask it to finish its work and end."""
        ...

    def stop(self) -> None:
        """Begin to end it, by force after a grace."""
        ...

    def stop_step(self) -> bool | None:
        """True: proven gone. False: cannot be killed. None: call again."""
        ...

    def clean_up(self) -> str | None:
        """After its end: kill what it left. Returns a complaint."""
        ...

    def leftovers(self) -> tuple[str, ...]:
        """Living processes of its lineage, for people."""
        ...

    def close(self) -> None:
        """Let go of it without stopping it."""
        ...


class QuarantineBook(Protocol):
    """Where the quarantine of one worker's card is written down, so that it outlives us and can be ended from outside."""

    def standing(self) -> tuple[float, str] | None:
        """Seconds until its trial, and why; None when there is no quarantine or its trial is due."""
        ...

    def enter(self, reason: str) -> None:
        """Write it down. Raises ``OSError``."""
        ...

    def release(self) -> None:
        """Somebody wants it back now."""
        ...


class LifeLock(Protocol):
    """The supervisor's own life lock."""

    def acquire(self) -> None:
        """Take it. Raises ``LockHeld`` naming the holder."""
        ...

    def release(self) -> None:
        """Give it back."""
        ...


class MakeProcess(Protocol):
    """Makes brain and worker processes; starts nothing."""

    def __call__(self, name: str, role: str, argv: Sequence[str], *, fits: Callable[[WorkerRow], bool]) -> Supervised:
        """``fits`` tells whether a running one may be adopted, by its registry row."""
        ...
