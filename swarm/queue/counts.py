"""Counts of the queue, by listing directories only; no file is opened.

* A directory that did not change is not listed again: ``Census`` counts for commands, ``QueueGauges`` for metrics.
* The counts are kept in ``control/counts`` for the next command: a hint that costs nothing to lose. Each count names its
  directory and the time of its last change, and is used only where both still hold; a file that is damaged, of another
  version or unreadable is ignored.
"""

from __future__ import annotations

import threading
import time
import zlib
from contextlib import suppress
from typing import Annotated

import msgspec

from swarm.core.lanes import parse_lane
from swarm.core.placement.demand import is_load_id
from swarm.core.task import TERMINAL, TaskState
from swarm.filesystem.entries import DirStamp, Folders, Known, list_inside, list_names, read_file, stamp_of
from swarm.queue.layout import Layout, is_shard
from swarm.queue.pending import LaneCounts, list_lanes, sorted_buckets, task_names, waits_since_s
from swarm.queue.storage import REASON, Storage, storage_faults
from swarm.queue.stores.registry import holders

QUIET_NS = 3_000_000_000
"""Written down is only what had been quiet for so long: times of some file systems move in steps of up to two seconds."""
WORTH_FILES = 20_000
"""Nothing is written for less: so many names are listed again in ten milliseconds."""
_MAX_BYTES = 256 << 20
_VERSION = 2


class _Saved(msgspec.Struct, frozen=True):
    version: Annotated[int, msgspec.Meta(ge=_VERSION, le=_VERSION)]
    folders: dict[str, Known]


class CountFile:
    """Read once, written when it is worth it."""

    def __init__(self, layout: Layout, storage: Storage) -> None:
        self._path = layout.counts
        self._storage = storage
        self._saved: dict[str, Known] = {}

    def load(self) -> dict[str, Known]:
        """By directory (relative to the root), what was counted inside it; {} where nothing usable is written."""
        with suppress(OSError, ValueError):  # a hint: whatever is wrong with it, the directories themselves answer
            head, _, body = read_file(self._path, _MAX_BYTES).partition(b"\n")
            if int(head, 16) == zlib.crc32(body):
                self._saved = msgspec.json.decode(body, type=_Saved).folders
        return self._saved

    def save(self, counted: dict[str, Known]) -> None:
        """Write down what may be kept, if it is worth it: replaced as a whole, never flushed. Never fails."""
        kept = {path: {n: f for n, f in known.items() if f.quiet_ns > QUIET_NS} for path, known in counted.items()}
        if sum(self._fresh(path, known) for path, known in kept.items()) < WORTH_FILES:
            return
        self._saved = kept  # also where it cannot be written: it would fail again and again
        body = msgspec.json.encode(_Saved(_VERSION, kept))
        with suppress(OSError):  # a full or read-only disk, or another's queue: the next command counts again
            self._storage.replace(self._path, b"%08x\n%b" % (zlib.crc32(body), body), durable=False)

    def _fresh(self, path: str, known: Known) -> int:
        """Files in what is not written down yet."""
        saved = self._saved.get(path, {})
        return sum(folder.files for name, folder in known.items() if saved.get(name) != folder)


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """How many tasks are where. ``pending`` by lane, ``processing`` by worker; ``drop_ins`` wait to be checked."""

    pending: dict[str, int]
    blocked: int
    processing: dict[str, int]
    completed: int
    failed: int
    cancelled: int
    corrupt: int
    drop_ins: int
    oldest_pending_s: float | None
    """By the wall clock; None when nothing waits."""


def count_documents(path: str) -> tuple[int, None]:
    """Finished documents in a shard; loads that the brain inserted are no tasks of anybody's."""
    names = (n for n in list_inside(path) if n.endswith(".json") and n[0] != ".")
    return sum(1 for n in names if not is_load_id(n[:-5])), None


class EndedCounts:
    """Documents by state: completed, failed, cancelled, corrupt. For one thread at a time."""

    def __init__(self, layout: Layout, known: dict[str, Known] | None = None) -> None:
        """``known``: by state, what was counted earlier, if anybody wrote it down; see ``Folders``."""
        self._corrupt = layout.corrupt
        self._tops = {state: f"{layout.root}/{state}" for state in sorted(TERMINAL)}
        self._shards = {s: Folders(top, count_documents, (known or {}).get(s)) for s, top in self._tops.items()}

    def look(self) -> dict[TaskState, int]:
        """Count now."""
        counts = {
            state: sum(shard.files for shard in shards.look(filter(is_shard, list_names(self._tops[state]))).values())
            for state, shards in self._shards.items()
        }
        counts[TaskState.CORRUPT] = sum(1 for n in list_names(self._corrupt) if not n.endswith(REASON))
        return counts

    def known(self) -> dict[str, Known]:
        """By state, what was counted at the last look."""
        return {str(state): shards.known for state, shards in self._shards.items()}


class Census:
    """Counts again and again; what is expensive to count is remembered, here and for the next command."""

    def __init__(self, layout: Layout, storage: Storage) -> None:
        self._layout = layout
        self._file = CountFile(layout, storage)
        saved = self._file.load()
        self.lanes = LaneCounts(layout, {p[8:]: known for p, known in saved.items() if p.startswith("pending/")})
        """Whoever looks at the lanes beside this shares what it knows of them."""
        self._ended = EndedCounts(layout, saved)
        self._counting = threading.Lock()

    @storage_faults("cannot count the queue")
    def count(self) -> Counts:
        """Count now. Raises ``StorageFault``."""
        with self._counting:
            counts = self._count()
            lanes = {f"pending/{lane}": known for lane, known in self.lanes.known().items()}
            self._file.save({**lanes, **self._ended.known()})
        return counts

    def _count(self) -> Counts:
        layout = self._layout
        pending = self.lanes.waiting()
        held = ((worker, len(task_names(layout.held_by(worker)))) for worker in holders(layout))
        blocked = len(task_names(layout.blocked))
        processing = {worker: tasks for worker, tasks in held if tasks}
        ended = self._ended.look()
        oldest_s = min((lane.oldest_s for lane in pending.values()), default=None)
        return Counts(
            pending={lane: waiting.tasks for lane, waiting in pending.items()},
            blocked=blocked,
            processing=processing,
            completed=ended[TaskState.COMPLETED],
            failed=ended[TaskState.FAILED],
            cancelled=ended[TaskState.CANCELLED],
            corrupt=ended[TaskState.CORRUPT],
            drop_ins=sum(1 for name in list_names(layout.pending) if parse_lane(name) is None),
            oldest_pending_s=None if oldest_s is None else max(0.0, time.time() - oldest_s),
        )


class _Bucket(msgspec.Struct, frozen=True):
    stamp: DirStamp | None
    stale: int
    next_s: float
    """Since when the first of the others waits: nothing more is stale before that is too long ago."""


class QueueGauges:
    """For one thread at a time."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._ended = EndedCounts(layout)
        self._buckets: dict[str, _Bucket] = {}
        self._before_s = float("-inf")

    @storage_faults("cannot count what has ended")
    def ended(self) -> dict[TaskState, int]:
        """Documents by state: completed, failed, cancelled, corrupt. A directory is listed again only when it changed."""
        return self._ended.look()

    @storage_faults("cannot look for what has waited too long")
    def stale(self, after_s: float) -> dict[str, int]:
        """By lane, tasks that have waited longer than ``after_s`` by the wall clock; lanes without any are left out."""
        before_s = time.time() - after_s
        if before_s < self._before_s:  # a clock set back, or a longer wait asked for: what was stale may not be
            self._buckets = {}
        self._before_s = before_s
        counts: dict[str, int] = {}
        buckets: dict[str, _Bucket] = {}
        for lane in list_lanes(self._layout):
            lane_path = self._layout.lane(lane)
            for name in sorted_buckets(lane_path):
                path = f"{lane_path}/{name}"
                bucket = buckets[path] = self._bucket(path, before_s)
                if bucket.stale:
                    counts[lane] = counts.get(lane, 0) + bucket.stale
        self._buckets = buckets
        return counts

    def _bucket(self, path: str, before_s: float) -> _Bucket:
        known, now = self._buckets.get(path), stamp_of(path)
        if known is not None and now is not None and now.unchanged_since(known.stamp) and before_s <= known.next_s:
            return known
        since_s = [waits_since_s(path, name) for name in task_names(path)]
        waiting_s = [s for s in since_s if s >= before_s]
        return _Bucket(now, len(since_s) - len(waiting_s), min(waiting_s, default=float("inf")))
