"""What the supervisor publishes: the plan its workers read, the state of its children."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

import msgspec

from swarm.core.health.visible_gpus import Visibility
from swarm.core.placement.worker_plan import WorkerPlan
from swarm.core.worker import ProcessIdentity
from swarm.filesystem.temporary import read_note, remove_note, write_note

NAME = "supervisor"
"""Of its process lock, registration and log."""
HTTP = "http"
"""The same of the HTTP server."""
RAY = "ray"
"""The same of the Ray driver, which finds cards of other machines and keeps their relays."""
HOST_PREFIX = "serve-"
"""Process lock, registration and log of the host of ``worker-1``'s server are called ``serve-worker-1``."""
PLAN_FILE = "supervisor.plan.json"
STATUS_FILE = "supervisor.status.json"
VISIBLE_FILE = "supervisor.visible.json"
"""Two dots each: never taken for the registration of a process."""


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


class SupervisorStatus(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """``workers/supervisor.status.json``. True only while ``process`` lives."""

    process: ProcessIdentity
    started_at: str
    written_at: str
    phase: str
    """``running``, ``draining``, ``stopping`` or ``ended``."""
    simulated: bool = False
    children: tuple[ChildStatus, ...] = ()
    leftovers: tuple[str, ...] = ()
    """Processes of ours that could not be ended; only in phase ``ended``."""

    def child(self, name: str) -> ChildStatus | None:
        """The child of that name, or None."""
        return next((c for c in self.children if c.name == name), None)


def save_plan(workers_dir: Path, plans: tuple[WorkerPlan, ...]) -> None:
    """Replace the plan, whole. Raises ``OSError``."""
    write_note(workers_dir / PLAN_FILE, plans)


def load_plan(workers_dir: Path) -> tuple[WorkerPlan, ...] | None:
    """The plan of the last supervisor, or None: a process started alone then makes its own from the configuration."""
    return read_note(workers_dir / PLAN_FILE, tuple[WorkerPlan, ...])


def save_visibility(workers_dir: Path, visibility: Visibility) -> None:
    """Beside the plan: which of the machine's cards it could choose from. Raises ``OSError``."""
    write_note(workers_dir / VISIBLE_FILE, visibility)


def load_visibility(workers_dir: Path) -> Visibility | None:
    """What the running supervisor's environment left of the cards; None where there is no plan to go with it."""
    found = read_note(workers_dir / VISIBLE_FILE, Visibility)
    return found if found is not None and (workers_dir / PLAN_FILE).exists() else None


def remove_plan(workers_dir: Path) -> None:
    """The plan ends with its supervisor."""
    remove_note(workers_dir / PLAN_FILE)
    remove_note(workers_dir / VISIBLE_FILE)


def save_status(workers_dir: Path, status: SupervisorStatus) -> None:
    """Replace the status, whole. Raises ``OSError``."""
    write_note(workers_dir / STATUS_FILE, status)


def load_status(workers_dir: Path) -> SupervisorStatus | None:
    """The last status; check that its ``process`` lives before believing it."""
    return read_note(workers_dir / STATUS_FILE, SupervisorStatus)
