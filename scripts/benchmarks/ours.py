"""Our queue under the benchmark: the real ``FileQueue``, with everything a worker does for one task.

The consumer holds its life lock, the attempt is counted by the claiming rename, the fence is the exact file name, the
result document is written behind the body and readable by others when ``ack`` returns.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.adapter import Adapter, mono
from benchmarks.work import MODEL, RESULT

from swarm.clock import SystemClock
from swarm.core.task import Attempt, Claim, TaskState, Trail
from swarm.queue.coordination import ProcessLock
from swarm.queue.file_queue import FileQueue

CLOCK = SystemClock()
LANES = [f"llm@{MODEL}"]


class SwarmFast(Adapter):
    name, sync, durability = "swarm (fast)", "none", "none"
    durable = "fast"
    waits = "inotify on the wake-up file"
    poll_s = 0.25
    hears = True
    lanes = LANES
    """What the consumer takes."""

    def open(self, consumer: int = 0) -> None:
        self.queue = FileQueue(f"{self.path}/queue", self.durable).prepare()
        self.worker = f"worker-{consumer}"
        self.wakeup = self.queue.wakeup()

    def waiting(self) -> str:
        return f"{self.path}/queue/pending"

    def begin(self) -> None:
        """Become a worker."""
        self.lock = ProcessLock(self.queue.layout, self.worker)
        self.lock.acquire(10)
        self.mine = self.queue.worker_view(self.worker)

    def put(self, task: dict[str, Any]) -> None:
        self.queue.enqueue(task)

    def fill(self, tasks: Iterable[dict[str, Any]]) -> None:
        for _ in self.queue.enqueue_many(tasks):
            pass

    def claim(self) -> tuple[str, Any] | None:
        return next(iter(self.exchange([], 1)), None)

    def ack(self, handle: Claim) -> None:
        self.exchange([handle], 0)

    def turn(self, handle: Claim) -> tuple[str, Any] | None:
        return next(iter(self.exchange([handle], 1)), None)

    def exchange(self, handles: Sequence[Claim], most: int) -> list[tuple[str, Any]]:
        """What a worker does when tasks have ended: record them and claim the next, in one transaction."""
        with self.mine.transaction() as transaction:
            for handle in handles:
                transaction.finish(handle, TaskState.COMPLETED, self._outcome(handle))
            while len(transaction.claims) < most and transaction.claim(self.lanes) is not None:
                pass
        if not all(transaction.recorded):
            raise RuntimeError("fenced")
        return [(claim.task.name, claim) for claim in transaction.claims]

    def _outcome(self, handle: Claim) -> Trail:
        attempt = Attempt(attempt=handle.attempt, worker=self.worker, outcome="completed")
        return Trail(status="completed", completed_at=CLOCK.iso(), result=RESULT, attempts=(*handle.attempts, attempt))

    def wait(self, timeout_s: float) -> tuple[str, Any] | None:
        end_s = mono() + timeout_s
        while (left_s := end_s - mono()) > 0:
            found = self.claim()
            if found is not None:
                return found
            if self.hears:
                self.wakeup.wait(min(self.poll_s, left_s))
            else:
                time.sleep(self.poll_s)
        return None

    def recover(self) -> str:
        brain = self.queue.brain_view(lambda _attempts: 0.0)
        start_s = mono()
        for name in os.listdir(self.queue.layout.processing):
            brain.recover(name)
        return f"back: the brain took it in {1000 * (mono() - start_s):.1f} ms"


class SwarmFull(SwarmFast):
    name, sync, durability = "swarm (full)", "fsync", "fsync"
    durable = "full"


class SwarmPolling(SwarmFast):
    name = "swarm (fast), no hint"
    waits = "polls every 0.25 s"
    hears = False


class SwarmFastTurn(SwarmFast):
    name = "swarm (fast), as its worker does it"
    turns = True


class SwarmFullTurn(SwarmFull):
    name = "swarm (full), as its worker does it"
    turns = True


def slots_rate(adapter: SwarmFull, slots: int, limit_s: float) -> float:
    """Tasks a second of one worker whose slots have all ended at each of its turns."""
    adapter.open(90)
    adapter.begin()
    start_s = mono()
    done = 0
    held = adapter.exchange([], slots)
    while held and mono() - start_s < limit_s:
        done += len(held)
        held = adapter.exchange([handle for _, handle in held], slots)
    return done / (mono() - start_s)


OURS = (SwarmFast, SwarmFastTurn, SwarmFull, SwarmFullTurn)
