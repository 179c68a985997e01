"""Fakes of the ports, in memory: a clock one sets, a queue one fills, a waiter that never waits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from swarm.core.lanes import Pauses, llm_lane, resource_lane
from swarm.core.snapshot import (
    BatchOverLimit,
    BlockedView,
    ClaimView,
    DropIn,
    FinishedView,
    LaneView,
    LiveView,
    ResourceTask,
    SwarmSnapshot,
    WorkerView,
)
from swarm.core.task import TaskClass, TaskState, canonical_model
from swarm.core.worker import Heartbeat, ProcessIdentity
from swarm.errors import DuplicateTask

_START = datetime(2026, 2, 7, 12, 0, tzinfo=UTC)
replace = msgspec.structs.replace


class FakeClock:
    """Stands still until it is moved on."""

    def __init__(self, start_s: float = 1000.0) -> None:
        self.now_s = start_s
        self._start_s = start_s

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.now_s += seconds

    def mono_s(self) -> float:
        """Monotonic seconds."""
        return self.now_s

    def iso(self, offset_s: float = 0.0) -> str:
        """The matching wall time, from noon on."""
        then = _START + timedelta(seconds=self.now_s - self._start_s + offset_s)
        return then.isoformat(timespec="milliseconds")


class FakeBrainQueue:
    """The queue as the brain sees it, with the same promises: ids are used once, moves of what is gone answer False.

    ``fault``, when set, is raised by the next calls that write.
    """

    def __init__(self) -> None:
        self.worker_views: dict[str, WorkerView] = {}
        self.pending: dict[str, str] = {}
        """Lane by task id, in order of arrival."""
        self.held: dict[str, ClaimView] = {}
        self.blocked_views: dict[str, BlockedView] = {}
        self.drop_in_files: dict[str, float] = {}
        """Seconds of quiet by file name."""
        self.ended: dict[str, str] = {}
        """Terminal state by task id."""
        self.documents: list[dict[str, Any]] = []
        self.batches_over_limit: tuple[BatchOverLimit, ...] = ()
        self.paused = Pauses()
        self.live: tuple[LiveView, ...] = ()
        self.live_written_at = ""
        self.fault: Exception | None = None
        self.finished_view = FinishedView()
        self.purgeable: dict[tuple[TaskState, str], int] = {}
        """Old documents by state and shard."""

    # -- what tests do to it

    def add_worker(self, view: WorkerView) -> None:
        """Register, or replace, a worker."""
        self.worker_views[view.name] = view

    def add_llm(self, count: int, model: str) -> None:
        """Put ``count`` llm tasks into a model's lane."""
        for _ in range(count):
            self.pending[f"t{len(self.pending) + len(self.held) + len(self.ended)}"] = llm_lane(model)

    def claim(self, task_id: str, worker: str) -> None:
        """A worker takes a pending task."""
        task_class, _, argument = self.pending.pop(task_id).partition("@")
        model = argument if task_class == TaskClass.LLM else self._load(task_id, worker).model
        self.held[task_id] = ClaimView(task_id=task_id, attempt=1, worker=worker, task_class=task_class, model=model)

    def loads(self) -> list[str]:
        """Ids of the resource tasks that wait, in order."""
        return [i for i, lane in self.pending.items() if lane.startswith(TaskClass.RESOURCE)]

    # -- the port

    def look(self, old_after_s: float | None = None) -> SwarmSnapshot:
        """All there is."""
        by_lane: dict[str, list[str]] = {}
        for task_id, lane in self.pending.items():
            by_lane.setdefault(lane, []).append(task_id)
        counts = {name: sum(c.worker == name for c in self.held.values()) for name in self.worker_views}
        drop_ins = (DropIn(file_name=name, quiet_s=quiet_s) for name, quiet_s in sorted(self.drop_in_files.items()))
        return SwarmSnapshot(
            lanes=tuple(self._lane_view(lane, ids) for lane, ids in sorted(by_lane.items())),
            claims=tuple(self.held[i] for i in sorted(self.held)),
            blocked=tuple(self.blocked_views[i] for i in sorted(self.blocked_views)),
            blocked_total=len(self.blocked_views),
            drop_ins=tuple(drop_ins),
            workers=tuple(replace(view, claims=counts[name]) for name, view in sorted(self.worker_views.items())),
            over_limit=self.batches_over_limit,
            pauses=self.paused,
            live=self.live,
            live_written_at=self.live_written_at,
            finished=FinishedView() if old_after_s is None else self.finished_view,
        )

    def file_drop_in(self, file_name: str) -> str:
        """Move a drop-in into the cpu lane."""
        self._may_write()
        del self.drop_in_files[file_name]
        self.pending[file_name.removesuffix(".json")] = TaskClass.CPU
        return f"Filed {file_name}"

    def recover(self, worker: str) -> tuple[str, ...] | None:
        """Give a dead worker's claims back to their lanes."""
        self._may_write()
        if worker in self.worker_views and self.worker_views[worker].alive:
            return None
        lines: list[str] = []
        for task_id, claim in list(self.held.items()):
            if claim.worker == worker:
                del self.held[task_id]
                is_llm = claim.task_class in (None, TaskClass.LLM) and claim.model
                self.pending[task_id] = llm_lane(claim.model or "") if is_llm else resource_lane(worker)
                lines.append(f"Requeued {task_id}: {worker} died")
        return tuple(lines)

    def enqueue(self, document: Mapping[str, Any]) -> str:
        """Accept one resource task."""
        self._may_write()
        task_id = str(document["task_id"])
        if self.exists(task_id):
            raise DuplicateTask(f"{task_id} exists already")
        self.documents.append(dict(document))
        self.pending[task_id] = resource_lane(str(document["target_worker"]))
        return task_id

    def exists(self, task_id: str) -> bool:
        """Whether the id is used."""
        return task_id in self.pending or task_id in self.held or task_id in self.blocked_views or task_id in self.ended

    def withdraw(self, task_id: str, reason: str) -> bool:
        """Cancel a waiting task."""
        self._may_write()
        gone = self.pending.pop(task_id, None) or self.blocked_views.pop(task_id, None)
        if gone is not None:
            self.ended[task_id] = "cancelled"
        return gone is not None

    def release_blocked(self, task_id: str, attempt: int) -> bool:
        """Move a blocked task to the cpu lane."""
        self._may_write()
        if self.blocked_views.pop(task_id, None) is None:
            return False
        self.pending[task_id] = TaskClass.CPU
        return True

    def fail_blocked(self, task_id: str, attempt: int, reason: str) -> bool:
        """Fail a blocked task."""
        self._may_write()
        if self.blocked_views.pop(task_id, None) is None:
            return False
        self.ended[task_id] = "failed"
        return True

    def purge(self, state: TaskState, shard: str, *, older_than_s: float, limit: int) -> int:
        """Take from ``purgeable``."""
        self._may_write()
        removed = min(limit, self.purgeable.get((state, shard), 0))
        self.purgeable[state, shard] = self.purgeable.get((state, shard), 0) - removed
        return removed

    def purge_batches(self, *, older_than_s: float) -> tuple[str, ...]:
        """None."""
        return ()

    def expand_map(self, task_id: str, attempt: int) -> str | None:
        """No map task is ever put into it."""
        raise AssertionError(f"{task_id}.{attempt} is no map task")

    gather_map = expand_map

    def cancel_children(self, task_id: str) -> int:
        """None."""
        return 0

    def stop_batch(self, batch_id: str, reason: str) -> int:
        """All that waits is taken to be of that batch."""
        self._may_write()
        stopped = len(self.pending)
        self.ended.update(dict.fromkeys(self.pending, "cancelled"))
        self.pending.clear()
        return stopped

    def _load(self, task_id: str, worker: str) -> ResourceTask:
        document = next((d for d in self.documents if d["task_id"] == task_id), {})
        epoch = document.get("metadata", {}).get("worker_epoch")
        return ResourceTask(task_id=task_id, worker=worker, model=document.get("model"), epoch=epoch)

    def _lane_view(self, lane: str, ids: list[str]) -> LaneView:
        head, _, argument = lane.partition("@")
        task_class = TaskClass(head)
        worker = argument if task_class is TaskClass.RESOURCE else None
        return LaneView(
            lane=lane,
            task_class=task_class,
            model=canonical_model(argument) if task_class is TaskClass.LLM else None,
            target_worker=worker,
            pending=len(ids),
            resource_tasks=() if worker is None else tuple(self._load(task_id, worker) for task_id in ids[:64]),
        )

    def _may_write(self) -> None:
        if self.fault is not None:
            raise self.fault


class FakeHeart:
    """Keeps the heartbeats it is given; raises ``fault`` when set."""

    def __init__(self) -> None:
        self.beats: list[Heartbeat] = []
        self.fault: Exception | None = None

    def beat(self, heartbeat: Heartbeat) -> None:
        """Keep it."""
        if self.fault is not None:
            raise self.fault
        self.beats.append(heartbeat)


class FakeWaiter:
    """Moves a clock on instead of waiting; remembers whom it was told to watch."""

    def __init__(self, clock: FakeClock) -> None:
        self._clock = clock
        self.watched: dict[str, ProcessIdentity] = {}
        self.waits: list[tuple[float, bool]] = []
        self.on_wait: Callable[[], bool] = lambda: False
        """Decides what a wait answers."""

    def watch(self, processes: Mapping[str, ProcessIdentity]) -> None:
        """Remember them."""
        self.watched = dict(processes)

    def wait(self, timeout_s: float, *, wakeup: bool = True) -> bool:
        """Let the time pass, unless there is news."""
        self.waits.append((timeout_s, wakeup))
        if self.on_wait():
            return True
        self._clock.advance(timeout_s)
        return False
