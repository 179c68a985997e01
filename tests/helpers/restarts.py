"""How long a brain that starts needs until everything the dead held is claimable again."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time

from swarm.queue.file_queue import FileQueue
from tests.helpers.queues import claim_one, llm
from tests.helpers.wait import wait_until


def readiness(*, pending: int, processing: int) -> float:
    """Seconds from the start of the process (the interpreter's included) until nothing is in dead hands, and it beats."""
    with tempfile.TemporaryDirectory(prefix="swarm-restart-") as home:
        queue = FileQueue(f"{home}/queue", "fast").prepare()
        for _ in queue.enqueue_many(llm(str(n)) for n in range(pending + processing)):
            pass
        for n in range(processing):
            assert claim_one(queue.worker_view(f"worker-{n % 4 + 1}")) is not None
        began_s = time.monotonic()
        argv = [sys.executable, "-m", "swarm", "brain", "--root", queue.layout.root]
        brain = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        try:
            wait_until(lambda: _ready(queue), timeout_s=60, what="taken back", poll_s=0.005)
            return time.monotonic() - began_s
        finally:
            brain.terminate()
            brain.wait(60)


def _ready(queue: FileQueue) -> bool:
    held = sum(len(os.listdir(f"{queue.layout.processing}/{w}")) for w in os.listdir(queue.layout.processing))
    return not held and os.path.exists(queue.layout.heartbeat("brain"))
