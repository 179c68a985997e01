"""Built snapshots and a queue in memory, for tests of the command line."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import msgspec

from swarm.core.gpu_reading import GpuReading
from swarm.core.lanes import llm_lane
from swarm.core.snapshot import ClaimView, LaneView, SwarmSnapshot, WorkerView
from swarm.core.task import TaskClass, TaskState
from swarm.core.worker import (
    Heartbeat,
    ModelTally,
    ProcessIdentity,
    RateSample,
    SlotView,
    WorkerRow,
    WorkerStatus,
    WorkerTally,
)
from swarm.errors import QueueError, UnknownTask

MODEL = "llama3.2:3b"
NOW = "2026-02-07T21:05:50.123+01:00"


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    pending: dict[str, int] = {}
    blocked: int = 0
    processing: dict[str, int] = {}
    completed: int = 0
    failed: int = 0
    cancelled: int = 0
    corrupt: int = 0
    drop_ins: int = 0
    oldest_pending_s: float | None = None


class Located(msgspec.Struct, frozen=True, kw_only=True):
    task_id: str
    state: TaskState
    path: str = ""
    attempt: int = 0
    worker: str | None = None
    lane: str | None = None


class MemoryQueue:
    """Fits ``FileQueue`` and as much of ``FileQueue`` as the commands use."""

    def __init__(self, counts: Counts | None = None, documents: dict[str, dict[str, Any]] | None = None) -> None:
        self.counts = counts or Counts()
        self.documents = documents or {}

    def stats(self) -> Counts:
        return self.counts

    def look_view(self, crash_rule: object) -> None:
        """What an observer looks through."""

    def find(self, task_id: str) -> Located | None:
        document = self.documents.get(task_id)
        return None if document is None else self._located(task_id, document)

    def read(self, task_id: str) -> dict[str, Any]:
        if task_id not in self.documents:
            raise UnknownTask(f"there is no task {task_id}", hint="`swarm queue list` shows the tasks")
        return self.documents[task_id]

    def quarantined(self, task_id: str) -> None:
        return None

    def batches(self) -> SimpleNamespace:
        return SimpleNamespace(names=lambda: ["prompts-1a2b3c4d"])

    def list(self, state: TaskState) -> Iterator[Located]:
        for task_id, document in self.documents.items():
            if document["state"] == state:
                yield self._located(task_id, document)

    def cancel(self, task_id: str, reason: str) -> str:
        document = self.read(task_id)
        if document["state"] == "completed":
            raise QueueError(f"task {task_id} is completed already")
        document["state"], document["reason"] = "cancelled", reason
        return "cancelled"

    def retry(self, task_id: str) -> str:
        self.read(task_id)["state"] = "pending"
        return llm_lane(MODEL)

    @staticmethod
    def _located(task_id: str, document: dict[str, Any]) -> Located:
        lane = llm_lane(document["model"]) if document["state"] == "pending" else None
        return Located(task_id=task_id, state=TaskState(document["state"]), lane=lane)


class World:
    """A queue, and an observer whose picture the test makes."""

    def __init__(self, queue: MemoryQueue, snapshot: SwarmSnapshot) -> None:
        self.queue = queue
        self.picture = snapshot

    def snapshot(self) -> SwarmSnapshot:
        return self.picture


def row(name: str, number: int = 0, role: str = "worker") -> WorkerRow:
    return WorkerRow(
        name=name,
        role=role,
        process=ProcessIdentity(pid=4000 + number, start_ticks=1, boot_id="b"),
        started_at=NOW,
        epoch=1,
        gpus=(number,) if role == "worker" else (),
        gpu_uuids=(f"GPU-{number}",) if role == "worker" else (),
        port=11435 + number,
        url=f"http://127.0.0.1:{11435 + number}",
        simulated=True,
    )


def worker(
    name: str,
    number: int = 0,
    *,
    status: WorkerStatus = WorkerStatus.IDLE,
    model: str | None = MODEL,
    task_id: str | None = None,
    alive: bool = True,
    reason: str = "",
    quiet_s: float = 0.0,
) -> WorkerView:
    slots = (
        (SlotView(task_id=task_id, task_class="llm", name="q", model=model, elapsed_s=7.0, progress=42),) if task_id else ()
    )
    tally = ModelTally(
        completed=100, busy_s=50.0, tokens_in=1000, tokens_out=20_000, loads=1, load_s=4.0, size_mib=3072, size_vram_mib=3072
    )
    beat = Heartbeat(
        name=name,
        pid=4000 + number,
        epoch=1,
        seq=9,
        turn=9,
        written_at=NOW,
        status=status,
        reason=reason,
        model=model,
        idle_s=34.0,
        slots=slots,
        tally=WorkerTally(completed=100, failed=2, tokens_out=20_000),
        models={model: tally} if model else {},
        recent=(RateSample(100.0), RateSample(150.0, 100, 1000, 20_000, 1)) if task_id else (),
    )
    return WorkerView(
        name=name, alive=alive, row=row(name, number), heartbeat=beat, quiet_s=quiet_s, claims=1 if task_id else 0
    )


def brain(*, alive: bool = True) -> WorkerView:
    return WorkerView(name="brain", alive=alive, row=row("brain", role="brain"))


def card(number: int, **more: Any) -> GpuReading:
    known: dict[str, Any] = {
        "memory_total_mib": 24576,
        "memory_used_mib": 3400,
        "utilisation_pct": 87,
        "temperature_c": 61,
        "power_w": 211.0,
    }
    known |= {"uuid": f"GPU-{number}", "name": "NVIDIA GeForce RTX 4090"}
    return GpuReading(index=number, **(known | more))


def claim(task_id: str, worker_name: str, **more: Any) -> ClaimView:
    return ClaimView(task_id=task_id, attempt=1, worker=worker_name, task_class="llm", name="q", model=MODEL, **more)


def lane(pending: int, model: str = MODEL) -> LaneView:
    return LaneView(lane=llm_lane(model), task_class=TaskClass.LLM, model=model, pending=pending)


def swarm(*workers: WorkerView, **more: Any) -> SwarmSnapshot:
    return SwarmSnapshot(now_iso=NOW, mono_s=100.0, workers=workers, **more)


def healthy() -> SwarmSnapshot:
    """Two cards, one at work, one idle, 123 tasks waiting."""
    return swarm(
        worker("worker-1", 0, status=WorkerStatus.BUSY, task_id="d5de16d7"),
        worker("worker-2", 1),
        lanes=(lane(123),),
        claims=(claim("d5de16d7", "worker-1"),),
        gpus=(card(0), card(1)),
    )


def far_worker(name: str, number: int = 0, *, node: str = "box2", **more: Any) -> WorkerView:
    """A worker beside the queue whose card is in another machine."""
    view = worker(name, number, **more)
    assert view.row is not None
    place = f"http://10.0.0.2:11800/cards/gpu{number}"
    replace = msgspec.structs.replace
    far = replace(view.row, node=node, url=place, port=None, gpu_uuids=(f"{node}/{number}",))
    beat = view.heartbeat and replace(view.heartbeat, server_version="0.12.3")
    return replace(view, row=far, heartbeat=beat)


def two_nodes() -> SwarmSnapshot:
    """The healthy one, and two cards of box2: one idle, one at work."""
    here = healthy()
    return msgspec.structs.replace(
        here,
        workers=(
            *here.workers,
            far_worker("box2-gpu0", 0),
            far_worker("box2-gpu1", 1, status=WorkerStatus.BUSY, task_id="e6ef27e8"),
        ),
        claims=(*here.claims, claim("e6ef27e8", "box2-gpu1")),
        gpus=(*(card(n, uuid=f"box2/{n}", node="box2", temperature_c=n + 40) for n in (0, 1)), *here.gpus),
    )
