"""What the supervisor leaves on disk for others: the plan its workers read, and how its children are."""

from __future__ import annotations

from pathlib import Path

import msgspec

from swarm.core.health.visible_gpus import Visibility
from swarm.core.placement.worker_plan import WorkerPlan
from swarm.core.worker import ProcessIdentity
from swarm.proc.state_file import read_note, remove_note, write_note
from swarm.supervisor.child import ChildStatus

PLAN_FILE = "supervisor.plan.json"
STATUS_FILE = "supervisor.status.json"
VISIBLE_FILE = "supervisor.visible.json"
"""Two dots each: never taken for the registry row of a process."""


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
    return read_note(workers_dir / VISIBLE_FILE, Visibility) if (workers_dir / PLAN_FILE).exists() else None


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
