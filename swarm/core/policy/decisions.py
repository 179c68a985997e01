"""All decisions the brain can make, each with its reason and the state it was based on.

``swarm.brain.apply`` carries them out; one whose facts have changed answers Stale and does nothing.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import msgspec

from swarm.core.task import TaskState


class _Decision(msgspec.Struct, frozen=True, kw_only=True):
    reason: str
    WORDS: ClassVar[str]
    """What it is about, stable from tick to tick, to follow "could not"."""


class FileDropIn(_Decision, frozen=True, kw_only=True):
    """Check a drop-in and move it to its lane, to ``blocked`` or to ``corrupt``."""

    WORDS = "file the drop-in {0.file_name}"
    file_name: str


class RecoverWorker(_Decision, frozen=True, kw_only=True):
    """Reclaim what a dead worker held: requeue, or dead-letter past the crash limit. Needs its free process lock."""

    WORDS = "requeue the tasks of {0.worker}"
    worker: str


class KillWorker(_Decision, frozen=True, kw_only=True):
    """Kill a hung worker, so that its tasks may be reclaimed once it is proven dead."""

    WORDS = "kill {0.worker}"
    worker: str
    epoch: int


class LoadModel(_Decision, frozen=True, kw_only=True):
    """Insert a targeted ``load_llm`` task with a deterministic id."""

    WORDS = "insert {0.task_id}"
    worker: str
    model: str
    epoch: int
    """The life of the worker that it is for."""
    task_id: str
    instead_of: str | None = None
    """A load task that still waits for this worker and is no longer wanted: withdrawn first. Missing: do nothing."""
    live: bool = False
    """Clients wait for it."""


class WithdrawResource(_Decision, frozen=True, kw_only=True):
    """Cancel a waiting resource task that is no longer wanted."""

    WORDS = "move {0.task_id}"
    task_id: str
    worker: str


class ReleaseTask(_Decision, frozen=True, kw_only=True):
    """Move a blocked task whose time or turn has come to its lane."""

    WORDS = "move {0.task_id}"
    task_id: str
    attempt: int


class AdvanceMap(_Decision, frozen=True, kw_only=True):
    """Make the children of a task mapped over a list, or gather their answers once they have ended."""

    WORDS = "{0.step} {0.task_id}"
    task_id: str
    attempt: int
    step: Literal["expand", "gather"]


class FailBlocked(_Decision, frozen=True, kw_only=True):
    """Fail a blocked task whose dependency failed."""

    WORDS = "move {0.task_id}"
    task_id: str
    attempt: int


class StopBatch(_Decision, frozen=True, kw_only=True):
    """Cancel what waits of a batch that is past its limit of failures, some at a time."""

    WORDS = "stop batch {0.batch_id}"
    batch_id: str


class CancelChildren(_Decision, frozen=True, kw_only=True):
    """Cancel what has not ended of the children of a mapped task that was cancelled, some at a time."""

    WORDS = "cancel the tasks of {0.task_id}"
    task_id: str


class Purge(_Decision, frozen=True, kw_only=True):
    """Remove finished documents: up to ``limit`` in these (state, shard), those that ended more than that long ago."""

    WORDS = "purge finished tasks"
    shards: tuple[tuple[TaskState, str], ...]
    older_than_s: float
    limit: int


class PurgeBatches(_Decision, frozen=True, kw_only=True):
    """Go a step on in removing the files of batches of which nothing is left, if submitted longer ago than that."""

    WORDS = "remove empty batches"
    older_than_s: float


class Warn(_Decision, frozen=True, kw_only=True):
    """Tell the operator: logged at WARNING when it changes. ``key`` names the condition, so that it is said once."""

    WORDS = "say {0.key}"
    key: str


Decision = (
    FileDropIn
    | RecoverWorker
    | KillWorker
    | LoadModel
    | WithdrawResource
    | ReleaseTask
    | AdvanceMap
    | FailBlocked
    | StopBatch
    | CancelChildren
    | Purge
    | PurgeBatches
    | Warn
)
