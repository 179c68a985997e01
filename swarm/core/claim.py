"""A claim: one worker's right to one attempt at a task, fenced by the exact file it names."""

from __future__ import annotations

from typing import Literal, NamedTuple

import msgspec

from swarm.core.task import Attempt, Outcome, Task, TaskState, Trail

Settled = Outcome | Literal["fenced"]
"""How a run ended: as its attempt says, or fenced, when the claim was lost to somebody else meanwhile."""


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """What ``claim`` returns. Whoever holds it finishes the task by moving exactly ``path``; a missing file means fenced."""

    task: Task
    attempt: int
    """Number of this attempt, from 1; it is part of the file's name, so it counts even if the worker dies now."""
    worker: str
    path: str
    body_size: int
    """Bytes of the task's immutable body at the start of the file."""
    attempts: tuple[Attempt, ...] = ()
    """Earlier attempts."""


class Finish(NamedTuple):
    """The end of a claim: completed, failed or cancelled, and what is recorded."""

    claim: Claim
    state: TaskState
    trail: Trail
