"""A worker process of the feed scene: it lives, claims, finishes and dies like one, but asks no model server.

    python endure_drain.py NAME LANE        root and configuration come from the environment, as for every command

Its answer to a request is ``answer_to`` of the prompt, so that whoever reads the results can tell a changed one.
"""

from __future__ import annotations

import logging
import os
import random
import signal
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from swarm.config.load import load
from swarm.core.policy.retry import crash_delay_s
from swarm.core.task import Claim, TaskState, Trail
from swarm.core.worker import WorkerStatus
from swarm.queue.file_queue import FileQueue
from swarm.queue.worker.orphans import reclaim
from swarm.runtime.bootstrap import RunOptions, living, open_root, own_row
from swarm.worker.heartbeat import HeartbeatThread, WorkerState
from tests.helpers.queues import claim_one, finish_one

IDLE_S = 0.2


def answer_to(prompt: str) -> str:
    """The prompt backwards."""
    return prompt[::-1]


def trail_of(claim: Claim) -> Trail:
    """How its task ends."""
    text = answer_to(claim.task.request["messages"][-1]["content"])
    result = {
        "model": claim.task.model,
        "message": {"role": "assistant", "content": text},
        "done": True,
        "done_reason": "stop",
    }
    return Trail(result=result, attempts=claim.attempts)


def drain(queue: FileQueue, name: str, lane: str, state: WorkerState, stopping: list[int]) -> None:
    """Claim and finish until told to stop."""
    view, wakeup = queue.worker_view(name), queue.wakeup()
    while not stopping:
        state.publish(turn=state.beat.turn + 1)
        claim = claim_one(view, [lane])
        if claim is None:
            wakeup.wait(IDLE_S)
        elif finish_one(view, claim, TaskState.COMPLETED, trail_of(claim)):
            state.count(claims=1, completed=1)
    wakeup.close()


def main(name: str, lane: str) -> None:
    settings = load(None, os.environ, None).settings
    options = RunOptions(settings=settings)
    queue, _ = open_root(options)
    log = logging.getLogger("drain")
    stopping: list[int] = []
    signal.signal(signal.SIGTERM, lambda *_: stopping.append(1))
    with living(queue, own_row(name, "worker")) as row:
        reclaim(
            queue.layout, queue.storage, name, lambda a: crash_delay_s(a, settings=settings.retry, jitter=random.random())
        )
        state = WorkerState(name=name, pid=os.getpid(), epoch=row.epoch)
        state.publish(status=WorkerStatus.BUSY)
        sink, period_s = queue.heartbeats(), settings.worker.heartbeat_s
        beats = HeartbeatThread(beat_of=state.heartbeat, sink=sink, period_s=period_s, log=log)
        beats.start()
        drain(queue, name, lane, state, stopping)
        state.publish(status=WorkerStatus.STOPPED)
        beats.stop()


if __name__ == "__main__":
    main(*sys.argv[1:])
