"""What a worker adds to each request: from the claim to the request being sent, from the last byte to the task on record.

A real swarm of one simulated card runs; the worker's process is told by its environment to write down four moments of
each task. Nothing else in it is changed.
"""

from __future__ import annotations

import atexit
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from itertools import pairwise
from pathlib import Path
from typing import Any

HERE = str(Path(__file__).resolve().parents[2])
HOOK = "import sys\nif 'worker' in sys.orig_argv:\n    from benchmarks import overhead\n    overhead.watch()\n"


def watch() -> None:
    """In the worker: note the moments, and write them out at the end."""
    from swarm.engines.work_http import WorkHttp, WorkReply  # noqa: PLC0415
    from swarm.queue.worker.worker_queue import WorkerFileQueue  # noqa: PLC0415

    moments: dict[str, dict[str, float]] = {}
    current: ContextVar[str] = ContextVar("current")
    real_transaction, real_post, real_drain = WorkerFileQueue.transaction, WorkHttp.post, WorkReply.drain

    @contextmanager
    def transaction(self: Any) -> Iterator[Any]:
        began_s = time.perf_counter()
        with real_transaction(self) as one:
            yield one
        ended_s = time.perf_counter()
        for finish in one.finishes:
            moments[finish.claim.task.task_id] |= {"finish": began_s, "done": ended_s}
        for claim in one.claims:
            moments[claim.task.task_id] = {"claim": began_s, "claimed": ended_s}

    @asynccontextmanager
    async def post(self: Any, path: str, body: bytes, headers: Mapping[str, str], deadlines: Any) -> AsyncIterator[Any]:
        current.set(headers.get("X-Swarm-Task", ""))
        moments.setdefault(current.get(), {})["sent"] = time.perf_counter()
        async with real_post(self, path, body, headers, deadlines) as reply:
            yield reply

    async def drain(self: Any) -> None:
        moments[current.get()]["last"] = time.perf_counter()
        await real_drain(self)

    WorkerFileQueue.transaction, WorkHttp.post, WorkReply.drain = transaction, post, drain  # type: ignore[method-assign]

    def write() -> None:
        with open(os.environ["BENCH_MOMENTS"], "w", encoding="utf-8") as file:
            json.dump(moments, file)

    atexit.register(write)


def overhead(work: str, durability: str, tasks: int, say: Callable[[str], None]) -> dict[str, float]:
    """Medians in milliseconds, one task at a time."""
    from benchmarks.work import document  # noqa: PLC0415

    from swarm.proc.ports import free_port  # noqa: PLC0415
    from swarm.queue.batches.batch_watch import BatchWatch  # noqa: PLC0415
    from swarm.queue.file_queue import FileQueue  # noqa: PLC0415

    folder = f"{work}/overhead-{durability}"
    os.makedirs(f"{folder}/hook")
    with open(f"{folder}/hook/sitecustomize.py", "w", encoding="utf-8") as file:
        file.write(HOOK)
    env = {
        **os.environ,
        "SWARM_ROOT": f"{folder}/queue",
        "SWARM_OLLAMA__BASE_PORT": str(free_port("127.0.0.1")),
        "SWARM_SIM__REQUEST_S": "0.01",
        "SWARM_SIM__LOAD_S": "0.1",
        "SWARM_LLM__SLOTS": "1",
        "SWARM_QUEUE__DURABILITY": durability,
        "BENCH_MOMENTS": f"{folder}/moments.json",
        "PYTHONPATH": f"{folder}/hook:{os.path.dirname(os.path.dirname(__file__))}:{HERE}",
    }
    command = [sys.executable, "-m", "swarm"]
    subprocess.run([*command, "up", "--simulate", "1", "--detach"], env=env, check=True, cwd=folder, stdout=2)
    try:
        queue = FileQueue(f"{folder}/queue")
        ids = [queue.new_id() for _ in range(tasks)]
        for _ in queue.enqueue_many({**document(i), "task_id": t} for i, t in enumerate(ids)):
            pass
        watch_ = BatchWatch(queue.layout, ids)
        end_s = time.monotonic() + 120
        while watch_.look().left and time.monotonic() < end_s:
            time.sleep(0.1)
    finally:
        subprocess.run([*command, "down"], env=env, check=True, cwd=folder, stdout=subprocess.DEVNULL)
    with open(f"{folder}/moments.json", encoding="utf-8") as file:
        moments = list(json.load(file).values())
    whole = [m for m in moments if {"claim", "sent", "last", "done"} <= set(m)]
    say(f"{len(whole)} of {tasks} tasks seen whole, durability {durability}")

    def median(first: str, second: str) -> float:
        return 1000 * statistics.median(m[second] - m[first] for m in whole)

    both = 1000 * statistics.median(m["sent"] - m["claim"] + m["done"] - m["last"] for m in whole)
    in_turn = sorted(whole, key=lambda m: m["sent"])
    gaps = [later["sent"] - earlier["last"] for earlier, later in pairwise(in_turn)]
    return {
        "claim_to_sent": median("claim", "sent"),
        "last_byte_to_done": median("last", "done"),
        "exchange": median("finish", "done"),
        "together": both,
        "gap": 1000 * statistics.median(gaps),
    }


def report(work: str, say: Callable[[str], None], tasks: int = 300) -> str:
    lines = ["### What a worker adds to one llm request, medians in ms", ""]
    heads = ("claim begun → request sent", "last byte → on record", "both", "of each the exchange with the queue")
    lines += ["| durability | " + " | ".join([*heads, "last byte → the next request sent"]) + " |"]
    lines += ["|---|--:|--:|--:|--:|--:|"]
    for durability in ("full", "fast"):
        found = overhead(work, durability, tasks, say)
        keys = ("claim_to_sent", "last_byte_to_done", "together", "exchange", "gap")
        lines.append(f"| {durability} | " + " | ".join(f"{found[k]:.2f}" for k in keys) + " |")
    return "\n".join([*lines, "", f"{tasks} tasks, one at a time, each 10 ms in a simulated server. Aim: both under 5 ms."])
