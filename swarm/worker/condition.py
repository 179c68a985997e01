"""How a worker is, in one status and one reason for people."""

from __future__ import annotations

from collections.abc import Sequence

from swarm.core.task import TaskClass
from swarm.core.worker import WorkerStatus
from swarm.worker.attempt import Run
from swarm.worker.server_health import ServerWatch

SERVED = (TaskClass.LLM, TaskClass.RESOURCE)
"""What needs the model server."""


def served_count(runs: Sequence[Run]) -> int:
    """How many of these need the model server."""
    return sum(1 for run in runs if run.claim.task.task_class in SERVED)


def condition(
    runs: Sequence[Run],
    *,
    draining: bool,
    disk_trouble: str,
    watch: ServerWatch | None,
    idle_text: str,
    card_trouble: str = "",
) -> tuple[WorkerStatus, str]:
    """The status to publish; what stands in the way of work comes before what it is busy with."""
    if draining:
        return WorkerStatus.DRAINING, f"stopping: {len(runs)} tasks still run"
    trouble = f"the disk refuses: {disk_trouble}" if disk_trouble else card_trouble
    if trouble:
        return WorkerStatus.UNREADY, trouble
    if watch is not None and watch.unready:
        status = WorkerStatus.STARTING if watch.reading is None else WorkerStatus.UNREADY
        return status, watch.closed_reason(in_flight=served_count(runs))
    held = next((run for run in runs if run.claim.task.task_class is TaskClass.RESOURCE), None)
    if held is not None:
        what = f"{held.claim.task.action} {held.claim.task.model}"
        return WorkerStatus.LOADING, what if held.begun else f"{what}: waits for running requests to end"
    if runs:
        return WorkerStatus.BUSY, ""
    refused = "" if watch is None or watch.reading is None else watch.reading.reason
    return WorkerStatus.IDLE, "; ".join(part for part in (idle_text, refused) if part)
