"""One open queue root: what commands do with it, and the views of workers and brain.

Each method imports only what it needs, so that a quick look stays quick.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

from swarm.errors import NotRunning
from swarm.filesystem.entries import is_file
from swarm.queue import lookup, root
from swarm.queue.layout import Layout, new_id
from swarm.queue.storage import Storage

# ruff: noqa: PLC0415  (see the docstring)

if TYPE_CHECKING:
    from swarm.core.doctor.root_check import Check
    from swarm.core.lanes import Kind, Pause, Pauses
    from swarm.core.task import TaskState
    from swarm.queue.batches.batch_book import BatchBook
    from swarm.queue.brain.brain_queue import BrainFileQueue
    from swarm.queue.coordination import WakeUp
    from swarm.queue.counts import Census, Counts
    from swarm.queue.lookup import Located, QuarantinedFile
    from swarm.queue.operations.cancel import CancelCounts
    from swarm.queue.operations.retention import Removed
    from swarm.queue.stores.registry import FileHeartbeats
    from swarm.queue.stores.slot_book import SlotBook
    from swarm.queue.submit.producer import Producer
    from swarm.queue.worker.orphans import CrashRule
    from swarm.queue.worker.worker_queue import WorkerFileQueue


class FileQueue:
    """Find, read, list, count; submit, cancel, retry, purge."""

    def __init__(self, root_path: str, durability: str = "full") -> None:
        self.layout = Layout(root_path)
        self.storage = Storage(durability, self.layout.root)

    def prepare(self) -> Self:
        """Make the directories that are missing and check their modes. Raises ``QueueError``, ``StorageFault``."""
        root.prepare(self.layout, self.storage)
        return self

    def must_exist(self) -> Self:
        """For commands that only look. Raises ``NotRunning`` when there is no queue at this root."""
        if not root.exists(self.layout):
            raise NotRunning(
                f"there is no queue at {self.layout.root}",
                hint="name another root with --root, or start one with `swarm up`",
            )
        return self

    def self_test(self) -> tuple[Check, ...]:
        """What the file system of the root can do, tried anew. Raises ``QueueError`` if it can hold no queue."""
        return root.self_test(self.layout, self.storage, whole=True)

    # -- looking -------------------------------------------------------------------------------------------------------

    def find(self, task_id: str) -> Located | None:
        """Where a task is."""
        return lookup.find(self.layout, task_id)

    def find_ended(self, task_id: str, state: TaskState) -> Located | None:
        """The same for a task that has ended in this way; one ``access`` call."""
        return lookup.find_ended(self.layout, task_id, state)

    def read(self, task_id: str) -> dict[str, Any]:
        """A whole document with its ``state``. Raises ``UnknownTask``, ``TaskInvalid``."""
        return lookup.read(self.layout, task_id)

    def list(self, state: TaskState) -> Iterator[Located]:
        """All tasks of one state; streams."""
        return lookup.list_state(self.layout, state)

    def quarantined(self, task_id: str) -> QuarantinedFile | None:
        """Where the file of a task lies that was quarantined and is nowhere else."""
        from swarm.queue.lookup import find_quarantined

        return find_quarantined(self.layout, task_id)

    def why_corrupt(self, name: str) -> str:
        """Why this file lies in ``corrupt/``; empty where no reason was recorded."""
        from swarm.queue.lookup import read_quarantined

        return read_quarantined(self.layout, name).reason

    def stats(self) -> Counts:
        """Counts of everything; what did not change since an earlier call, or an earlier command's, is not listed again."""
        return self.census.count()

    @cached_property
    def census(self) -> Census:
        """What is known of the counts of this queue; brain views made from it may share it."""
        from swarm.queue.counts import Census

        return Census(self.layout, self.storage)

    def worker_names(self) -> tuple[str, ...]:
        """Names of all registered workers."""
        from swarm.queue.stores import registry

        return registry.names(self.layout)

    # -- changing ------------------------------------------------------------------------------------------------------

    def new_id(self) -> str:
        """A fresh task id: see ``layout.new_id``."""
        return new_id()

    @cached_property
    def _producer(self) -> Producer:
        from swarm.queue.submit.producer import Producer

        return Producer(self.layout, self.storage)

    def enqueue(self, document: Mapping[str, Any]) -> str:
        """See ``Producer.enqueue``."""
        return self._producer.enqueue(document)

    def enqueue_many(self, documents: Iterable[Mapping[str, Any]]) -> Iterator[int]:
        """See ``Producer.enqueue_many``: a generator of how many are durable so far."""
        return self._producer.enqueue_many(documents)

    def cancel(self, task_id: str, reason: str) -> str:
        """See ``task_ops.cancel``."""
        from swarm.queue.operations import task_ops

        return task_ops.cancel(self.layout, self.storage, task_id, reason)

    def cancel_many(self, task_ids: Iterable[str], reason: str) -> CancelCounts:
        """See ``task_ops.cancel_tasks``."""
        from swarm.queue.operations import task_ops

        return task_ops.cancel_tasks(self.layout, self.storage, task_ids, reason)

    def cancel_batch(self, batch_id: str, reason: str) -> CancelCounts:
        """See ``task_ops.cancel_batch``."""
        from swarm.queue.operations import task_ops

        return task_ops.cancel_batch(self.layout, self.storage, batch_id, reason)

    def ask_requeue(self, task_id: str) -> None:
        """Ask the worker of a running task to stop it and to requeue it, its attempts forgiven. Raises ``StorageFault``."""
        from swarm.queue.operations import cancel

        cancel.ask_requeue(self.layout, self.storage, task_id)

    def requeue_asked(self, task_id: str) -> bool:
        """Whether that request stands: the worker removes it once the task is requeued."""
        return is_file(self.layout.requeue_mark(task_id))

    def forget_requeue(self, task_id: str) -> bool:
        """Withdraw it. False: there is none, or none any more."""
        from swarm.queue.operations import cancel

        return cancel.forget_requeue(self.layout, task_id)

    def retry(self, task_id: str) -> str:
        """See ``task_ops.retry``."""
        from swarm.queue.operations import task_ops

        return task_ops.retry(self.layout, self.storage, task_id)

    def retry_many(self, task_ids: Iterable[str]) -> int:
        """See ``task_ops.retry_tasks``."""
        from swarm.queue.operations import task_ops

        return task_ops.retry_tasks(self.layout, self.storage, task_ids)

    def pause(self, kind: Kind, name: str = "") -> Pauses:
        """See ``pauses.pause``."""
        from swarm.queue.operations import pauses

        return pauses.pause(self.layout, self.storage, kind, name)

    def resume(self, kind: Kind, name: str = "") -> tuple[Pauses, tuple[Pause, ...]]:
        """See ``pauses.resume``."""
        from swarm.queue.operations import pauses

        return pauses.resume(self.layout, self.storage, kind, name)

    def purge(self, states: Iterable[TaskState], *, older_than_s: float, dry: bool = False) -> dict[TaskState, Removed]:
        """See ``purge.purge``."""
        from swarm.queue.operations.purge import purge

        return purge(self.layout, states, older_than_s=older_than_s, dry=dry)

    def purge_batches(self, *, older_than_s: float, purged: Iterable[TaskState] = (), dry: bool = False) -> tuple[str, ...]:
        """See ``purge.purge_batches``; ids of the batches whose files were removed."""
        from swarm.queue.operations.purge import purge_batches

        return purge_batches(self.layout, self.storage, older_than_s=older_than_s, purged=purged, dry=dry)

    def batches(self) -> BatchBook:
        """The batches of this queue."""
        from swarm.queue.batches.batch_book import BatchBook

        return BatchBook(self.layout, self.storage)

    # -- for processes -------------------------------------------------------------------------------------------------

    def worker_view(self, worker: str) -> WorkerFileQueue:
        """The ``WorkerQueue`` of one worker, whose process lock the caller holds."""
        from swarm.queue.worker.worker_queue import WorkerFileQueue

        return WorkerFileQueue(self.layout, self.storage, worker)

    def brain_view(
        self,
        crash_rule: CrashRule,
        end_remains: Callable[[str], bool] = lambda _name: True,
        *,
        count_finished: bool = False,
        ready_only: bool = False,
    ) -> BrainFileQueue:
        """The ``BrainQueue``, for who holds the brain's process lock. ``end_remains`` ends programs that a dead worker left.

        ``count_finished``: what lies finished is counted too, for retention by number. ``ready_only``: for a brain that goes
        on looking; of what is blocked it is told only what may matter now.
        """
        from swarm.queue.brain.brain_queue import BrainFileQueue

        return BrainFileQueue(
            self.layout, self.storage, crash_rule, end_remains, count_finished=count_finished, ready_only=ready_only
        )

    def look_view(self, crash_rule: CrashRule) -> BrainFileQueue:
        """The same for commands that only look; nothing that ``stats`` has counted is counted twice."""
        from swarm.queue.brain.brain_queue import BrainFileQueue

        return BrainFileQueue(self.layout, self.storage, crash_rule, lanes=self.census.lanes)

    def wakeup(self, *, drop_ins: bool = False) -> WakeUp:
        """A wake-up to wait on."""
        from swarm.queue.coordination import WakeUp

        return WakeUp(self.layout, drop_ins=drop_ins)

    def wake(self) -> None:
        """Wake all who wait on this root."""
        from swarm.queue.coordination import wake

        wake(self.layout)

    def slot_book(self, worker: str) -> SlotBook:
        """The ``SlotMemory`` of one worker, whose process lock the caller holds."""
        from swarm.queue.stores.slot_book import SlotBook

        return SlotBook(self.layout, self.storage, worker)

    def heartbeats(self) -> FileHeartbeats:
        """The ``HeartbeatSink``."""
        from swarm.queue.stores.registry import FileHeartbeats

        return FileHeartbeats(self.layout, self.storage)
