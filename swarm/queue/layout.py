"""Every directory and file name under the queue root. Nothing else knows them.

* ``pending/<lane>/<bucket>/<id>.<n>.json``: a bucket holds about ``BUCKET_SIZE`` tasks, so that listing one costs the same
  however many wait. Its name is the inverted priority and the id of its first task: names sort by priority, then time.
* ``completed|failed|cancelled/<shard>/<id>.json``: the shard comes from the id alone, so that a look-up by id opens one
  path. For ids made here it is their time, 33 s wide: old shards fall quiet, and their counts need no second look.
"""

from __future__ import annotations

import os
import re
import zlib
from typing import NamedTuple

from swarm.core.task import ID_PATTERN, TERMINAL, TaskState
from swarm.queue.ids import made_here

BUCKET_SIZE = 1000
_SHARD_CHARS = 6
_TASK_FILE = re.compile(ID_PATTERN.removesuffix("$").replace("^", "^(") + r")\.([0-9]{1,6})\.json\Z").match
_SHARD = re.compile(r"[0-3][0-9a-hjkmnp-tv-z]{5}|x[0-9a-f]{2}").fullmatch
STATE_DIRS = tuple(str(s) for s in TaskState)


class TaskName(NamedTuple):
    """A task file's name, taken apart: the id and the attempts so far (in ``processing``: the current one)."""

    task_id: str
    attempt: int


def task_file(task_id: str, attempt: int) -> str:
    """``<id>.<n>.json``."""
    return f"{task_id}.{attempt}.json"


def parse_task_file(name: str) -> TaskName | None:
    """The inverse of ``task_file``; None for a foreign name."""
    match = _TASK_FILE(name)
    return None if match is None else TaskName(match[1], int(match[2]))


def bucket_name(priority: int, key: str) -> str:
    """A bucket for tasks of this priority whose first id is ``key``."""
    return f"{9 - priority}-{key}"


def bucket_priority(name: str) -> int | None:
    """The priority of a bucket, None if the name is no bucket's."""
    if len(name) > 2 and name[1] == "-" and name[0].isdecimal():
        return 9 - int(name[0])
    return None


def shard_of(task_id: str) -> str:
    """The shard of a terminal document."""
    if made_here(task_id):
        return task_id[:_SHARD_CHARS]
    return f"x{zlib.crc32(os.fsencode(task_id)) & 0xFF:02x}"


def is_shard(name: str) -> bool:
    """Whether it may be a shard's name."""
    return _SHARD(name) is not None


class Layout:
    """Paths as strings; the hot path builds thousands a second."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.pending = f"{root}/pending"
        self.blocked = f"{root}/blocked"
        self.processing = f"{root}/processing"
        self.corrupt = f"{root}/corrupt"
        self.batches = f"{root}/batches"
        self.feeds = f"{root}/feeds"
        self.outbox = f"{root}/outbox"
        self.cache = f"{root}/cache"
        self.workers = f"{root}/workers"
        self.heartbeats = f"{root}/heartbeats"
        self.logs = f"{root}/logs"
        self.staging = f"{root}/.staging"
        self.cancels = f"{root}/.cancel"
        self.sessions = f"{root}/.sessions"
        self.control = f"{root}/control"
        self.pauses = f"{root}/control/pauses.json"
        self.counts = f"{root}/control/counts"
        self.bell = f"{root}/.bell"

    def directories(self) -> tuple[str, ...]:
        """All directories of a queue root, the root first."""
        states = tuple(f"{self.root}/{name}" for name in STATE_DIRS)
        seen = (self.batches, self.workers, self.heartbeats, self.logs, self.control)
        return (self.root, *states, *seen, self.staging, self.cancels, self.sessions)

    def lane(self, lane: str) -> str:
        """Directory of a lane."""
        return f"{self.pending}/{lane}"

    def held_by(self, worker: str) -> str:
        """Directory of what a worker holds."""
        return f"{self.processing}/{worker}"

    def work_of(self, worker: str) -> str:
        """Where the programs that a worker runs have their own directories."""
        return f"{self.root}/.work/{worker}"

    def terminal(self, state: TaskState, task_id: str) -> str:
        """Path of a finished document."""
        return self.terminal_place(state, task_id)[1]

    def terminal_place(self, state: TaskState, task_id: str) -> tuple[str, str]:
        """Folder and path of a finished document."""
        assert state in TERMINAL
        folder = f"{self.root}/{state}/{shard_of(task_id)}"
        return folder, f"{folder}/{task_id}.json"

    def ended_files(self, task_id: str) -> list[str]:
        """The path of its finished document in each of the terminal states."""
        shard = shard_of(task_id)
        return [f"{self.root}/{state}/{shard}/{task_id}.json" for state in TERMINAL]

    def blocked_file(self, task_id: str, attempt: int) -> str:
        """Path of a blocked task."""
        return f"{self.blocked}/{task_file(task_id, attempt)}"

    def blocked_files(self, task_id: str, attempts: int) -> list[str]:
        """The same for each number of attempts below ``attempts``."""
        return [f"{self.blocked}/{task_file(task_id, n)}" for n in range(attempts)]

    def cancel_mark(self, task_id: str) -> str:
        """Exists while somebody wants this running task cancelled."""
        return f"{self.cancels}/{task_id}"

    def lock(self, name: str) -> str:
        """The process lock of a worker, the brain or the supervisor."""
        return f"{self.workers}/{name}.lock"

    def row(self, name: str) -> str:
        """The registration of a worker, the brain or the supervisor."""
        return f"{self.workers}/{name}.json"

    def heartbeat(self, name: str) -> str:
        """The heartbeat of a worker or the brain."""
        return f"{self.heartbeats}/{name}.json"
