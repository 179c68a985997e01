"""The brain's view of the queue, for one thread under the brain's process lock.

Fits the ``BrainQueue`` port.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

import msgspec

from swarm.core.live.demand import ModelDemand
from swarm.core.placement.demand import resource_task
from swarm.core.snapshot import ClaimView, FinishedView, LaneView, LiveView, ResourceTask, SwarmSnapshot, WorkerView
from swarm.core.task import Task, TaskError, TaskState, canonical_model
from swarm.core.worker import WorkerRow
from swarm.core.workflow.fan_out import MapFault
from swarm.errors import OddEntry, TaskInvalid
from swarm.filesystem.entries import Occupied, list_inside
from swarm.queue import codec, lookup
from swarm.queue.batches.failure_limit import FailureLimits
from swarm.queue.brain.blocked_files import BlockedEntry
from swarm.queue.brain.blocked_table import BlockedTable
from swarm.queue.brain.map_tasks import Mapper
from swarm.queue.coordination import PauseBook, ProcessLock, is_held, wake
from swarm.queue.layout import Layout, parse_task_file
from swarm.queue.operations.cancel import Canceller
from swarm.queue.operations.purge import BlockedNeeds, Needed
from swarm.queue.operations.retention import FinishedIndex
from swarm.queue.pending import BucketChooser, LaneCounts, returned_bucket
from swarm.queue.storage import Storage, storage_faults
from swarm.queue.stores import registry
from swarm.queue.stores.live_demand import DemandBook
from swarm.queue.submit.drop_ins import DropInFiler
from swarm.queue.submit.producer import Producer
from swarm.queue.worker.orphans import CrashRule, reclaim
from swarm.queue.worker.transitions import Transitions

MOST_SHOWN = 64
"""Tasks of one worker's lane."""


class TaskDocuments:
    """Reads documents of claimed tasks and waiting loads, once each; a file that is no task has no class, and is no load."""

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
            paths = [located.path for located in islice(lookup.list_lane(self._layout, lane), MOST_SHOWN)]
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


def _live_view(name: str, found: ModelDemand) -> LiveView:
    """Numbers below zero, which the HTTP server never writes, count as none."""
    waiting, in_flight = max(0, found.waiting), max(0, found.in_flight)
    return LiveView(
        model=canonical_model(name),
        waiting=waiting,
        in_flight=in_flight,
        oldest_s=max(0.0, found.oldest_s) if waiting else 0.0,
    )


def _read(path: str) -> Task | None:
    """The task; None for a file that cannot be read or understood, which is for others to report."""
    try:
        return codec.read(path).task
    except (FileNotFoundError, OddEntry):
        raise
    except (OSError, TaskInvalid, ValueError):
        return None


CHILDREN_STEP = 1000
"""Children of a cancelled mapped task that are ended in one tick."""


class BrainFileQueue:
    """Incremental observation, and the moves only the brain makes."""

    def __init__(
        self,
        layout: Layout,
        storage: Storage,
        crash_rule: CrashRule,
        end_remains: Callable[[str], bool] = lambda _name: True,
        *,
        count_finished: bool = False,
        ready_only: bool = False,
        lanes: LaneCounts | None = None,
    ) -> None:
        """With ``ready_only`` ``blocked`` answers only what may matter now, at the cost of what changed.

        ``lanes``: counts to go on from, where somebody has counted already.
        """
        self._end_remains = end_remains
        self._layout = layout
        self._storage = storage
        self._crash_rule = crash_rule
        self._lanes = lanes or LaneCounts(layout)
        self.blocked = BlockedTable(layout, storage, PauseBook(layout).read, ready_only=ready_only)
        self._limits = FailureLimits(layout, storage) if ready_only else None
        self._drop_ins = DropInFiler(layout, storage)
        self._producer = Producer(layout, storage)
        self._mapper = Mapper(layout, storage, self._producer)
        self._transitions = Transitions(layout, storage)
        self._canceller = Canceller(layout, storage)
        self._cancels = Occupied(layout.cancels)
        self._needed: Needed | None = None
        self._finished = FinishedIndex(layout, count=count_finished)
        self._buckets = BucketChooser(layout, storage)
        self._documents = TaskDocuments(layout)
        self._live = DemandBook(layout)

    @storage_faults("cannot read the queue")
    def look(self, old_after_s: float | None = None) -> SwarmSnapshot:
        """The state of the queue, at the cost of what changed; ages are left 0, the observer fills them in.

        With ``old_after_s`` also what lies finished, one bounded step further each time. Raises ``StorageFault``.
        """
        self._needed = None
        held = {
            name: sorted(n for n in list_inside(self._layout.held_by(name)) if not n.startswith("."))
            for name in sorted(registry.holders(self._layout))
        }
        live = self._live.read()
        return SwarmSnapshot(
            workers=self._workers(held),
            claims=self._documents.claims(held),
            lanes=self._lane_views(),
            blocked=self.blocked.look(),
            blocked_total=len(self.blocked),
            drop_ins=lookup.list_drop_ins(self._layout),
            over_limit=() if self._limits is None else self._limits.look(),
            orphaned=self._canceller.orphaned() if self._cancels.any() else (),
            pauses=self.blocked.pauses,
            live=() if live is None else tuple(_live_view(name, found) for name, found in sorted(live.models.items())),
            live_written_at="" if live is None else live.written_at,
            finished=FinishedView() if old_after_s is None else self._finished.look(old_after_s),
        )

    def _workers(self, held: Mapping[str, Sequence[str]]) -> tuple[WorkerView, ...]:
        """Everybody with a row or a processing directory."""
        rows = registry.rows(self._layout)
        found = []
        for name in sorted({*rows, *held}):
            row = rows.get(name) or registry.read_row(self._layout, name)
            found.append(self._worker(name, row, len(held.get(name, ()))))
        return tuple(found)

    def _worker(self, name: str, row: WorkerRow | None, claims: int) -> WorkerView:
        heartbeat = registry.read_heartbeat(self._layout, name)
        if heartbeat is not None and row is not None and heartbeat.epoch != row.epoch:
            heartbeat = None
        return WorkerView(name=name, alive=is_held(self._layout, name), row=row, heartbeat=heartbeat, claims=claims)

    def _lane_views(self) -> tuple[LaneView, ...]:
        views = self._lanes.look()
        loads = self._documents.loads(view.lane for view in views if view.target_worker is not None)
        return tuple(
            msgspec.structs.replace(view, resource_tasks=loads[view.lane]) if view.lane in loads else view for view in views
        )

    def file_drop_in(self, file_name: str) -> str:
        """Check one drop-in and move it on; returns a line for the log."""
        line = self._drop_ins.file(file_name)
        wake(self._layout)
        return line

    def recover(self, worker: str) -> tuple[str, ...] | None:
        """Reclaim what a dead worker held, under its process lock; None: it lives, or a program of it cannot be ended."""
        lock = ProcessLock(self._layout, worker)
        if not lock.try_acquire():
            return None
        try:
            if not self._end_remains(worker):
                return None
            lines = reclaim(self._layout, self._storage, worker, self._crash_rule)
        finally:
            lock.release()
        wake(self._layout)
        return lines

    def enqueue(self, document: Mapping[str, Any]) -> str:
        """Accept one task."""
        return self._producer.enqueue(document)

    def withdraw(self, task_id: str, reason: str) -> bool:
        """Move a waiting task to ``cancelled``."""
        located = lookup.find(self._layout, task_id)
        if located is None or located.state not in (TaskState.PENDING, TaskState.BLOCKED):
            return False
        error = TaskError(type="cancelled", message=reason)
        return self._transitions.end_waiting(located.path, task_id, TaskState.CANCELLED, error)

    def release_blocked(self, task_id: str, attempt: int) -> bool:
        """Move a blocked task to its lane: to the front if it ran before, else (or if it may be poison) to the end."""
        with storage_faults(f"cannot release {task_id}"):
            found = self.blocked.find(task_id, attempt)
            if found is None:
                return False
            path, entry = found
            try:
                self.blocked.note_turn(entry)
                self.blocked.note_needs(entry)
                bucket = self._bucket_for(entry)
                # After a power cut either place is a good one, and thousands may be due at once.
                self._buckets.move_in(path, entry.lane, bucket, task_id, attempt, flush=False)
            except FileNotFoundError:
                return False
            except FileExistsError:
                self._storage.quarantine(path, f"task {task_id} is already waiting under this name")
                return False
        wake(self._layout)
        return True

    def _bucket_for(self, entry: BlockedEntry) -> str:
        if entry.behind:
            return self._buckets.behind(entry.lane, entry.priority, last=entry.behind == "suspects")
        return returned_bucket(entry.priority) if entry.ran else self._buckets.at_end(entry.lane, entry.priority)

    def fail_blocked(self, task_id: str, attempt: int, reason: str) -> bool:
        """Move a blocked task to ``failed``."""
        with storage_faults(f"cannot fail {task_id}"):
            found = self.blocked.find(task_id, attempt)
        if found is None:
            return False
        return self._transitions.end_waiting(
            found[0], task_id, TaskState.FAILED, TaskError(type="dependency", message=reason)
        )

    def expand_map(self, task_id: str, attempt: int) -> str | None:
        """Make the children of a blocked map task; it waits on for them. None: it is missing."""
        return self._advance(task_id, attempt, lambda path: f"Mapped {task_id} over {self._mapper.expand(path)} elements")

    def gather_map(self, task_id: str, attempt: int) -> str | None:
        """Complete a map task with the answers of its children. None: it is missing."""
        return self._advance(task_id, attempt, lambda path: f"Gathered {self._mapper.gather(path)} answers in {task_id}")

    def _advance(self, task_id: str, attempt: int, act: Callable[[str], str]) -> str | None:
        with storage_faults(f"cannot continue {task_id}"):
            found = self.blocked.find(task_id, attempt)
            if found is None:
                return None
            try:
                line = act(found[0])
            except FileNotFoundError:
                return None
            except (MapFault, TaskInvalid, ValueError, RecursionError) as fault:
                error = TaskError(type="map", message=str(fault))
                self._transitions.end_waiting(found[0], task_id, TaskState.FAILED, error)
                line = f"Failed {task_id}: {fault}"
            self.blocked.read_again(task_id, attempt)
        wake(self._layout)
        return line

    def stop_batch(self, batch_id: str, reason: str) -> int:
        """Cancel some of what waits of a batch; how many."""
        if self._limits is None:
            return 0
        with storage_faults(f"cannot stop batch {batch_id}"):
            return self._limits.stop(batch_id, reason)

    def cancel_children(self, task_id: str) -> int:
        """End up to ``CHILDREN_STEP`` of such a task's children; how many, with those whose workers were asked."""
        ended = self._canceller.end_orphans(task_id, most=CHILDREN_STEP)
        wake(self._layout)
        return ended

    def purge(self, state: TaskState, shard: str, *, older_than_s: float, limit: int) -> int:
        """Remove old documents of one shard; how many. Kept: those that blocked tasks and sessions depend on."""
        if self.blocked.unread:
            return 0
        with storage_faults(f"cannot purge {state}/{shard}"):
            if self._needed is None:
                self._needed = Needed(self._layout, BlockedNeeds(self.blocked.dependencies(), self.blocked.maps()))
            return self._finished.purge(state, shard, older_than_s=older_than_s, limit=limit, keep=self._needed).documents

    def purge_batches(self, *, older_than_s: float) -> tuple[str, ...]:
        """Go a step on in removing the files of batches of which nothing is left; ids of those removed now."""
        return self._finished.purge_batches(self._storage, older_than_s=older_than_s)
