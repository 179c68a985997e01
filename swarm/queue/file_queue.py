"""One queue root, opened: the door for commands and for the wiring of the processes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from swarm.core.doctor.root_check import Check
from swarm.core.task import TaskState
from swarm.queue import root
from swarm.queue.batches.batch_book import BatchBook
from swarm.queue.brain.brain_queue import BrainFileQueue
from swarm.queue.ids import new_id
from swarm.queue.operations import task_ops
from swarm.queue.operations.cancel import Cancelled
from swarm.queue.operations.purge import purge, purge_batches
from swarm.queue.operations.shard_scan import Removed
from swarm.queue.reader import QueueReader
from swarm.queue.storage.wakeup import FileBell, ring
from swarm.queue.stores import registry
from swarm.queue.stores.registry import FileHeartbeats
from swarm.queue.submit.producer import Producer
from swarm.queue.worker.orphans import CrashRule
from swarm.queue.worker.worker_queue import WorkerFileQueue


class FileQueue(QueueReader):
    """Submit, look, cancel, retry; and the special views of workers and brain."""

    def __init__(self, root_path: str, durability: str = "full") -> None:
        super().__init__(root_path, durability)
        self._producer = Producer(self.layout, self.storage)

    def prepare(self) -> FileQueue:
        """Make the directories that are missing and check their modes. Raises ``QueueError``, ``StorageFault``."""
        root.prepare(self.layout, self.storage)
        return self

    def self_test(self) -> tuple[Check, ...]:
        """What the file system of the root can do, tried anew. Raises ``QueueError`` if it can hold no queue."""
        return root.self_test(self.layout, self.storage, whole=True)

    def new_id(self) -> str:
        """See ``ids.new_id``."""
        return new_id()

    def enqueue(self, document: Mapping[str, Any]) -> str:
        """See ``Producer.enqueue``."""
        return self._producer.enqueue(document)

    def enqueue_many(self, documents: Iterable[Mapping[str, Any]]) -> Iterator[int]:
        """See ``Producer.enqueue_many``: a generator of how many are durable so far."""
        return self._producer.enqueue_many(documents)

    def cancel(self, task_id: str, reason: str) -> str:
        """See ``task_ops.cancel``."""
        return task_ops.cancel(self.layout, self.storage, task_id, reason)

    def retry(self, task_id: str) -> str:
        """See ``task_ops.retry``."""
        return task_ops.retry(self.layout, self.storage, task_id)

    def cancel_many(self, task_ids: Iterable[str], reason: str) -> Cancelled:
        """See ``task_ops.cancel_tasks``."""
        return task_ops.cancel_tasks(self.layout, self.storage, task_ids, reason)

    def retry_many(self, task_ids: Iterable[str]) -> int:
        """See ``task_ops.retry_tasks``."""
        return task_ops.retry_tasks(self.layout, self.storage, task_ids)

    def worker_view(self, worker: str) -> WorkerFileQueue:
        """The ``WorkerQueue`` of one worker, whose life lock the caller holds."""
        return WorkerFileQueue(self.layout, self.storage, worker)

    def brain_view(
        self,
        crash_rule: CrashRule,
        end_remains: Callable[[str], bool] = lambda _name: True,
        *,
        count_finished: bool = False,
        ready_only: bool = False,
    ) -> BrainFileQueue:
        """The ``BrainQueue``, for who holds the brain's life lock. ``end_remains`` ends programs that a dead worker left.

        ``count_finished``: what lies finished is counted too, for retention by number. ``ready_only``: for a brain that goes
        on looking; of what is blocked it is told only what may matter now.
        """
        return BrainFileQueue(
            self.layout, self.storage, crash_rule, end_remains, count_finished=count_finished, ready_only=ready_only
        )

    def look_view(self, crash_rule: CrashRule) -> BrainFileQueue:
        """The same for commands that only look; nothing that ``stats`` has counted is counted twice."""
        return BrainFileQueue(self.layout, self.storage, crash_rule, lanes=self.census.lanes)

    def purge(self, states: Iterable[TaskState], *, older_than_s: float, dry: bool = False) -> dict[TaskState, Removed]:
        """See ``purge.purge``."""
        return purge(self.layout, states, older_than_s=older_than_s, dry=dry)

    def purge_batches(self, *, older_than_s: float, purged: Iterable[TaskState] = (), dry: bool = False) -> tuple[str, ...]:
        """See ``purge.purge_batches``; ids of the batches whose files are gone now."""
        return purge_batches(self.layout, self.storage, older_than_s=older_than_s, purged=purged, dry=dry)

    def uncancel(self, task_id: str) -> None:
        """Take back the wish that a running task be cancelled; harmless when there is none."""
        task_ops.forget_cancel(self.layout, task_id)

    def batches(self) -> BatchBook:
        """What was submitted together."""
        return BatchBook(self.layout, self.storage)

    def bell(self, *, drop_ins: bool = False) -> FileBell:
        """A bell to wait on."""
        return FileBell(self.layout, drop_ins=drop_ins)

    def ring(self) -> None:
        """Wake all who wait on this root."""
        ring(self.layout)

    def heartbeats(self) -> FileHeartbeats:
        """The ``HeartbeatSink``."""
        return FileHeartbeats(self.layout, self.storage)

    def worker_names(self) -> tuple[str, ...]:
        """Names of all registered workers."""
        return registry.names(self.layout)
