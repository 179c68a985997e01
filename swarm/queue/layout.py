"""Paths and names under the queue root, and task ids. No other module knows them.

* ``pending/<lane>/<bucket>/<id>.<n>.json``: a bucket holds about ``BUCKET_SIZE`` tasks, so that listing one costs the same
  however many wait. Its name is the inverted priority and the id of its first task: names sort by priority, then time.
  One for prefix groups (up to ``GROUPED_SIZE``) ends in ``_groups``.
* ``completed|failed|cancelled/<shard>/<id>.json``: the shard comes from the id alone, so that a look-up by id opens one
  path. For ids made here it is their time, 33 s wide: old shards fall quiet, and their counts need no second look.
* Task ids are 17 characters that sort by time, unique across processes without a lock; those of one process always rise:
  nine characters of milliseconds since 1970, three of a sequence within the millisecond, five random; Crockford's base 32
  in lower case (no i, l, o, u), so that ids survive being read aloud and sort as text.
* The five last characters are the same in all ids of a process, or in all of a prefix group: then the first of the five is
  ``g`` or later (see ``group_of``). So a file's name tells its group, in whatever directory it lies.
"""

from __future__ import annotations

import os
import re
import threading
import time
import zlib
from typing import NamedTuple

from swarm.core.task import ID_PATTERN, TERMINAL, TaskState

REQUEUE = ".requeue"
"""Ends the name of the file by which a running task is to be requeued."""
_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_PAIRS = [first + second for first in _ALPHABET for second in _ALPHABET]
_VALUES = {c: i for i, c in enumerate(_ALPHABET)}
_TIME_CHARS = 9
_SEQ_CHARS = 3
_RANDOM_CHARS = 5
_SEQ_MAX = 32**_SEQ_CHARS
ID_LENGTH = _TIME_CHARS + _SEQ_CHARS + _RANDOM_CHARS
GROUP_MARK = slice(_TIME_CHARS + _SEQ_CHARS, ID_LENGTH)
"""Where a file's name has the mark of its group, if it is in one (see ``group_of``)."""
_OWN_BITS = 5 * _RANDOM_CHARS - 1
_IN_GROUP = 1 << _OWN_BITS
_MADE_RE = re.compile(r"^[0-3][0-9a-hjkmnp-tv-z]{16}$")
_GROUPED = re.compile(r"[0-3][0-9a-hjkmnp-tv-z]{11}([ghjkmnp-tv-z][0-9a-hjkmnp-tv-z]{4})(?:\.|\Z)").match
_AHEAD_S = 86400.0
"""A time further ahead of the clock is not ours: it was read from a foreign id that looks like one."""


def _encode(value: int, width: int) -> str:
    chars = []
    for _ in range(width):
        chars.append(_ALPHABET[value & 31])
        value >>= 5
    return "".join(reversed(chars))


class IdMaker:
    """Makes ids that rise strictly within this object, also when the wall clock steps back."""

    def __init__(self) -> None:
        self._last_ms = 0
        self._seq = 0
        self._head = _encode(0, _TIME_CHARS)
        self.be_another()

    def be_another(self) -> None:
        """In a forked child: make ids that differ from the parent's."""
        self._lock = threading.Lock()  # another thread may have held it at the fork
        self._own = int.from_bytes(os.urandom(4)) & (_IN_GROUP - 1)
        self._random = _encode(self._own, _RANDOM_CHARS)

    def new(self, group: int | None = None) -> str:
        """A fresh id; of two, the later one sorts later. Those of one ``group`` (its lower 24 bits) end alike."""
        tail = self._random if group is None else _encode(_IN_GROUP | ((group ^ self._own) & (_IN_GROUP - 1)), _RANDOM_CHARS)
        with self._lock:
            now_ms = time.time_ns() // 1_000_000
            if now_ms > self._last_ms:
                self._start(now_ms)
            elif self._seq + 1 < _SEQ_MAX:
                self._seq += 1
            else:
                self._start(self._last_ms + 1)
            seq = self._seq
            return f"{self._head}{_PAIRS[seq >> 5]}{_ALPHABET[seq & 31]}{tail}"

    def _start(self, ms: int) -> None:
        self._last_ms, self._seq, self._head = ms, 0, _encode(ms, _TIME_CHARS)


_here = IdMaker()
os.register_at_fork(after_in_child=_here.be_another)


def new_id(group: int | None = None) -> str:
    """A fresh id: one maker for the whole process, so that what it submits first sorts first whichever object it uses."""
    return _here.new(group)


def group_of(name: str) -> str:
    """The mark of the prefix group of a task, by its id or its file's name; empty for one without."""
    match = _GROUPED(name)
    return "" if match is None else match[1]


def made_here(task_id: str) -> bool:
    """Whether an id has the shape of ours. Depends on the id alone, so others' ids may have it: see ``time_of``."""
    return _MADE_RE.match(task_id) is not None


def time_of(task_id: str) -> float | None:
    """Seconds since the epoch at which the id was made; None for ids made by others."""
    return _plausible_s(task_id[:_TIME_CHARS]) if made_here(task_id) else None


def shard_time_of(shard: str) -> float | None:
    """Seconds since the epoch before which no id of this shard was made; None for shards of others' ids."""
    if len(shard) >= _TIME_CHARS or not made_here(shard.ljust(ID_LENGTH, "0")):
        return None
    return _plausible_s(shard.ljust(_TIME_CHARS, "0"))


def _plausible_s(text: str) -> float | None:
    ms = 0
    for char in text:
        ms = (ms << 5) | _VALUES[char]
    return ms / 1000 if ms / 1000 <= time.time() + _AHEAD_S else None


BUCKET_SIZE = 1000
GROUPED_SIZE = 8000
"""More than elsewhere, as long as they are fewer than ``GROUPS`` groups: the more a worker sees of a lane, the longer it can
go on with one prefix."""
GROUPS = 32
_GROUPS = "_groups"
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


def bucket_name(priority: int, key: str, *, grouped: bool = False) -> str:
    """A bucket for tasks of this priority whose first id is ``key``."""
    return f"{9 - priority}-{key}{_GROUPS if grouped else ''}"


def is_grouped(bucket: str) -> bool:
    """Whether a bucket holds prefix groups, and what was submitted together only."""
    return bucket.endswith(_GROUPS)


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
        self.files = f"{root}/files"
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
        self.tokens = f"{root}/control/tokens.json"
        self.counts = f"{root}/control/counts"
        self.live = f"{root}/live"
        self.live_demand = f"{root}/live/demand.json"
        self.nodes = f"{root}/nodes"
        self.node_token = f"{root}/nodes/token"
        self.wakeup = f"{root}/.bell"

    def directories(self) -> tuple[str, ...]:
        """All directories of a queue root, the root first."""
        states = tuple(f"{self.root}/{name}" for name in STATE_DIRS)
        seen = (self.batches, self.workers, self.heartbeats, self.logs, self.control)
        return (self.root, *states, *seen, self.staging, self.cancels, self.sessions)

    def lane(self, lane: str) -> str:
        """Directory of a lane."""
        return f"{self.pending}/{lane}"

    def held_by(self, worker: str) -> str:
        """Directory of the tasks that a worker holds."""
        return f"{self.processing}/{worker}"

    def work_of(self, worker: str) -> str:
        """Parent of the working directories of a worker's programs."""
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
        """Path of the file that exists while this running task is to be cancelled."""
        return f"{self.cancels}/{task_id}"

    def requeue_mark(self, task_id: str) -> str:
        """Path of the file that exists while this running task is to be stopped and requeued."""
        return f"{self.cancels}/{task_id}{REQUEUE}"

    def lock(self, name: str) -> str:
        """The process lock of a worker, the brain or the supervisor."""
        return f"{self.workers}/{name}.lock"

    def row(self, name: str) -> str:
        """The registration of a worker, the brain or the supervisor."""
        return f"{self.workers}/{name}.json"

    def slots(self, name: str) -> str:
        """What a worker's card has shown for its models. Two dots: never taken for a registration."""
        return f"{self.workers}/{name}.slots.json"

    def live_socket(self, worker: str) -> str:
        """The Unix socket on which a worker takes live requests. Too long a path to bind: go through its directory."""
        return f"{self.live}/{worker}.sock"

    def node(self, name: str) -> str:
        """The record of another machine with cards."""
        return f"{self.nodes}/{name}.json"

    def node_drain(self, name: str) -> str:
        """The file that exists while that machine is to be drained."""
        return f"{self.nodes}/{name}.drain"

    def heartbeat(self, name: str) -> str:
        """The heartbeat of a worker or the brain."""
        return f"{self.heartbeats}/{name}.json"
