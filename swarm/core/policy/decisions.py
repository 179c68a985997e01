"""Everything the brain can cause, on one screen. Each decision says why, and names what it saw.

``swarm.brain.apply`` carries them out; an effect that finds the world changed answers Stale and does nothing.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from swarm.core.task import TaskState


class _Decision(msgspec.Struct, frozen=True, kw_only=True):
    reason: str


class FileDropIn(_Decision, frozen=True, kw_only=True):
    """Check a drop-in and move it to its lane, to ``blocked`` or to ``corrupt``."""

    file_name: str


class RecoverWorker(_Decision, frozen=True, kw_only=True):
    """Take back what a dead worker held: requeue, or dead-letter past the crash limit. Needs its free life lock."""

    worker: str


class KillWorker(_Decision, frozen=True, kw_only=True):
    """Kill a hung worker, so that its tasks may be taken back once it is proven dead."""

    worker: str
    epoch: int


class LoadModel(_Decision, frozen=True, kw_only=True):
    """Insert a targeted ``load_llm`` task with a deterministic id."""

    worker: str
    model: str
    epoch: int
    """The life of the worker that it is for."""
    task_id: str
    instead_of: str | None = None
    """A load task that still waits for this worker and is no longer wanted: withdrawn first; if it is gone, do nothing."""


class WithdrawResource(_Decision, frozen=True, kw_only=True):
    """Cancel a waiting resource task that is no longer wanted."""

    task_id: str
    worker: str


class ReleaseTask(_Decision, frozen=True, kw_only=True):
    """Move a blocked task whose time or turn has come to its lane."""

    task_id: str
    attempt: int


class AdvanceMap(_Decision, frozen=True, kw_only=True):
    """Make the children of a task mapped over a list, or gather their answers once they have ended."""

    task_id: str
    attempt: int
    step: Literal["expand", "gather"]


class FailBlocked(_Decision, frozen=True, kw_only=True):
    """Fail a blocked task whose dependency failed."""

    task_id: str
    attempt: int


class StopBatch(_Decision, frozen=True, kw_only=True):
    """Cancel what waits of a batch that is past its limit of failures, some at a time."""

    batch_id: str


class CancelChildren(_Decision, frozen=True, kw_only=True):
    """Cancel what has not ended of the children of a mapped task that was cancelled, some at a time."""

    task_id: str


class Purge(_Decision, frozen=True, kw_only=True):
    """Let go of finished documents: up to ``limit`` in these (state, shard), those that ended more than that long ago."""

    shards: tuple[tuple[TaskState, str], ...]
    older_than_s: float
    limit: int


class PurgeBatches(_Decision, frozen=True, kw_only=True):
    """Go a step on in removing the files of batches of which nothing is left, if submitted longer ago than that."""

    older_than_s: float


class Warn(_Decision, frozen=True, kw_only=True):
    """Tell people: logged at WARNING when it changes. ``key`` names the condition, so that it is said once."""

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
