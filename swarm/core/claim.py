"""A claim: the right of one worker to one attempt at one task, fenced by the exact file it names."""

from __future__ import annotations

import msgspec

from swarm.core.task import Attempt, Task


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
