"""Small words for queue tests."""

from __future__ import annotations

import errno
import os
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from swarm.core.task import Claim, Finish, TaskState, Trail
from swarm.filesystem.entries import GRAIN_NS
from swarm.queue import codec
from swarm.queue.brain import blocked_files
from swarm.queue.file_queue import FileQueue
from swarm.queue.storage import DIR_MODE
from swarm.queue.worker.worker_queue import WorkerFileQueue, WorkerTransaction
from tests.helpers.wait import wait_until

LANE = "llm@llama3.2:3b"


def unreadable(monkeypatch: pytest.MonkeyPatch, task_id: str) -> None:
    """The file of this blocked task lies on a bad sector."""
    real = codec.read

    def bad_sector(path: str) -> codec.Parts:
        if task_id in path:
            raise OSError(errno.EIO, os.strerror(errno.EIO), path)
        return real(path)

    monkeypatch.setattr(blocked_files, "codec", SimpleNamespace(read=bad_sector))


def llm(text: str = "hello", **fields: Any) -> dict[str, Any]:
    """An llm task document."""
    return {
        "task_class": "llm",
        "model": "llama3.2:3b",
        "request": {"messages": [{"role": "user", "content": text}]},
        **fields,
    }


def prepared(root: str, durability: str = "fast") -> FileQueue:
    """A queue prepared as one that was there already: what the file system of a new one can do is tried, and takes long."""
    for path in (root, f"{root}/pending"):
        Path(path).mkdir(DIR_MODE, parents=True, exist_ok=True)
    return FileQueue(root, durability).prepare()


def open_queue(path: Path, durability: str = "fast") -> FileQueue:
    """A prepared queue."""
    return prepared(str(path / "queue"), durability)


def whereabouts(queue: FileQueue) -> dict[str, list[TaskState]]:
    """All states each id is in; a sound queue shows one each."""
    places: dict[str, list[TaskState]] = {}
    for state in TaskState:
        if state is not TaskState.CORRUPT:
            for located in queue.list(state):
                places.setdefault(located.task_id, []).append(state)
    return places


def claim_one(worker: WorkerFileQueue, lanes: Sequence[str] = (LANE,)) -> Any:
    """The next task of these lanes, on record; None if there is none. Raises ``StorageFault``."""
    with worker.transaction() as transaction:
        claim = transaction.claim(lanes)
    if transaction.fault is not None:
        raise transaction.fault
    return claim


def finish_one(worker: WorkerFileQueue, claim: Claim, state: TaskState, trail: Trail) -> bool:
    """Put an outcome on record; False: fenced."""
    with worker.transaction() as transaction:
        transaction.finish(claim, state, trail)
    return transaction.recorded[0]


def exchange_some(
    worker: WorkerFileQueue, finishes: Iterable[Finish], most: int, lanes: Sequence[str] = (LANE,)
) -> WorkerTransaction:
    """Record outcomes and claim up to so many tasks, as a worker does in one tick."""
    with worker.transaction() as transaction:
        for finish in finishes:
            transaction.finish(*finish)
        while len(transaction.claims) < most and transaction.claim(lanes) is not None:
            pass
    return transaction


def assert_one_state_each(queue: FileQueue, ids: list[str]) -> Counter[TaskState]:
    """Every id is in exactly one state, and nothing else is there. Returns how many are where."""
    places = whereabouts(queue)
    assert sorted(places) == sorted(ids)
    assert all(len(states) == 1 for states in places.values()), places
    return Counter(states[0] for states in places.values())


def settle(root: Path) -> None:
    """Wait until no directory has changed within a step of directory times."""

    def quiet() -> bool:
        return all(time.time_ns() - f.stat().st_ctime_ns > GRAIN_NS for f in root.rglob("*") if f.is_dir())

    wait_until(quiet, timeout_s=60, what="the directories are quiet")
