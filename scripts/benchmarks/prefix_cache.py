"""Prompt tokens that servers evaluate for prompts with shared headers, with and without prefix order.

* ``evaluate``: queue, submission and claims are real; the servers are a model in virtual time.
* ``evaluate_real``: a whole swarm runs, on simulated servers.

In both, each slot holds the last prompt it ran, and a request gets the free slot that shares the longest beginning with it
(the rule of llama-server), else the one longest idle. What it shares is not evaluated again.
"""

from __future__ import annotations

import heapq
import json
import os
import random
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import deque
from pathlib import Path
from typing import Any, NamedTuple

CHARS_PER_TOKEN = 4
ROWS, GROUPS, HEADER_TOKENS, QUESTION_TOKENS = 600, 6, 1500, 40
SIMILAR = 0.1
"""A slot is chosen for what it holds if that is more than this part of the prompt."""
PROMPT_TOKENS_PER_S, OUT_TOKENS_PER_S, OUT_TOKENS = 4000.0, 40.0, (20, 200)
SETUPS = ((1, 1, 0), (1, 1, 1), (1, 8, 0), (1, 8, 1), (4, 1, 0), (4, 1, 1), (4, 8, 0), (4, 8, 1))
"""Workers, slots of each, and requests that each sends beyond its slots."""
REAL_SETUPS = ((1, 1), (1, 8), (4, 1))
MODEL = "llama3.2:3b"
HOME = Path(__file__).resolve().parents[2]


class Evaluated(NamedTuple):
    """Tokens of one run."""

    evaluated: int
    least: int
    """Each header once, each question once."""
    all: int
    took_s: float
    """Until the last answer; in virtual time, or with servers that take no time for prompts."""

    @property
    def ratio(self) -> float:
        """1.0: nothing was evaluated that need not be."""
        return self.evaluated / self.least


def prompts(rows: int, groups: int, header_tokens: int, seed: int = 1) -> list[str]:
    """Shuffled; those of one group share a header."""
    rng = random.Random(seed)

    def words(tokens: int) -> str:
        return "".join(rng.choices("abcdefghij klmnopqrstuvwxyz", k=tokens * CHARS_PER_TOKEN))

    headers = [words(header_tokens) for _ in range(groups)]
    found = [headers[row % groups] + words(QUESTION_TOKENS) for row in range(rows)]
    rng.shuffle(found)
    return found


class _Slot:
    def __init__(self) -> None:
        self.text = ""
        self.free_since_s = 0.0


class _Server:
    """One card."""

    def __init__(self, slots: int) -> None:
        self.idle = [_Slot() for _ in range(slots)]
        self.waiting: deque[Any] = deque()
        self.evaluated = 0

    def take(self, text: str) -> tuple[_Slot, int]:
        """The slot for a prompt, and how many tokens it has to evaluate there."""
        shared = {id(slot): _shared_chars(slot.text, text) for slot in self.idle}
        slot = max(self.idle, key=lambda one: shared[id(one)])
        if shared[id(slot)] <= SIMILAR * len(text):
            slot = min(self.idle, key=lambda one: one.free_since_s)
        fresh = max(1, (len(text) - shared[id(slot)]) // CHARS_PER_TOKEN)
        self.idle.remove(slot)
        slot.text = text
        self.evaluated += fresh
        return slot, fresh


def _shared_chars(one: str, other: str) -> int:
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def evaluate(workers: int, slots: int, reserve: int, *, ordered: bool, seed: int = 1, rows: int = ROWS) -> Evaluated:
    """Submit the prompts as one batch, run them, and count."""
    texts = prompts(rows, GROUPS, HEADER_TOKENS, seed)
    with tempfile.TemporaryDirectory(prefix="bench-prefix-") as folder:
        return _counted(rows, *_run(f"{folder}/queue", texts, workers, slots, reserve, ordered=ordered, seed=seed))


def evaluate_real(workers: int, slots: int, *, ordered: bool, seed: int = 1, rows: int = ROWS) -> Evaluated:
    """The same through a swarm with simulated cards."""
    with tempfile.TemporaryDirectory(prefix="bench-prefix-") as folder:
        submit(f"{folder}/queue", prompts(rows, GROUPS, HEADER_TOKENS, seed), ordered=ordered)
        return _counted(rows, *_run_swarm(folder, workers, slots))


def _counted(rows: int, evaluated: int, took_s: float) -> Evaluated:
    least = GROUPS * HEADER_TOKENS + rows * QUESTION_TOKENS
    return Evaluated(evaluated, least, rows * (HEADER_TOKENS + QUESTION_TOKENS), took_s)


def submit(root: str, texts: list[str], *, ordered: bool) -> Any:
    """Accept the prompts as one batch; its queue."""
    from swarm.queue.batches.batch_book import Manifest  # noqa: PLC0415
    from swarm.queue.file_queue import FileQueue  # noqa: PLC0415

    queue = FileQueue(root, "fast").prepare()
    manifest = Manifest(batch_id="bench", source="bench", format="jsonl", created_at="")
    documents = ((str(at), {"task_class": "llm", "model": MODEL, **_request(text)}) for at, text in enumerate(texts))
    for _ in queue.batches().submit(manifest, documents, prefix_order=ordered):
        pass
    return queue


def _run_swarm(folder: str, workers: int, slots: int) -> tuple[int, float]:
    """Start a swarm on ``folder/queue``, wait until nothing is left; tokens evaluated and seconds."""
    from swarm.proc.ports import free_port  # noqa: PLC0415
    from swarm.queue.batches.batch_watch import BatchWatch  # noqa: PLC0415
    from swarm.queue.file_queue import FileQueue  # noqa: PLC0415

    port = free_port("127.0.0.1")
    env = {
        **os.environ,
        "PYTHONPATH": str(HOME),
        "SWARM_ROOT": f"{folder}/queue",
        "SWARM_OLLAMA__BASE_PORT": str(port),
        "SWARM_SIM__REQUEST_S": "0.02",
        "SWARM_SIM__LOAD_S": "0.1",
        "SWARM_LLM__SLOTS": str(slots),
        "SWARM_QUEUE__DURABILITY": "fast",
    }
    command = [sys.executable, "-m", "swarm"]
    subprocess.run([*command, "up", "--simulate", str(workers), "--detach"], env=env, check=True, cwd=folder, stdout=2)
    try:
        began_s = time.monotonic()
        queue = FileQueue(f"{folder}/queue")
        watch = BatchWatch(queue.layout, list(queue.batches().task_ids("bench")))
        while watch.look().left and time.monotonic() < began_s + 300:
            time.sleep(0.05)
        took_s = time.monotonic() - began_s
        states = [_state(port + at) for at in range(workers)]
    finally:
        subprocess.run([*command, "down"], env=env, check=True, cwd=folder, stdout=subprocess.DEVNULL)
    served = sum(state["served"] for state in states)
    if served < watch.look().completed or watch.look().left:
        raise RuntimeError(f"{watch.look().left} tasks are left, {served} were served")
    return sum(state["prompt_tokens_evaluated"] for state in states), took_s


def _state(port: int) -> Any:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/sim/state", timeout=10) as reply:
        return json.load(reply)


def _run(
    root: str, texts: list[str], workers: int, slots: int, reserve: int, *, ordered: bool, seed: int
) -> tuple[int, float]:
    from swarm.core.lanes import llm_lane  # noqa: PLC0415
    from swarm.core.task import TaskState, Trail  # noqa: PLC0415

    queue = submit(root, texts, ordered=ordered)
    rng = random.Random(seed)
    views = [queue.worker_view(f"gpu{n}") for n in range(workers)]
    servers = [_Server(slots) for _ in range(workers)]
    running: list[tuple[float, int, int, Any, _Slot]] = []
    lanes, now_s, number = (llm_lane(MODEL),), 0.0, 0

    def start(at: int) -> None:
        nonlocal number
        server = servers[at]
        while server.waiting and server.idle:
            claim = server.waiting.popleft()
            slot, fresh = server.take(claim.task.request["messages"][0]["content"])
            end_s = now_s + fresh / PROMPT_TOKENS_PER_S + rng.randint(*OUT_TOKENS) / OUT_TOKENS_PER_S
            number += 1
            heapq.heappush(running, (end_s, number, at, claim, slot))

    for _ in range(slots + reserve):
        for at, view in enumerate(views):
            with view.transaction() as transaction:
                claim = transaction.claim(lanes, spread=not reserve)
            if claim is not None:
                servers[at].waiting.append(claim)
    for at in range(workers):
        start(at)
    while running:
        now_s, _, at, claim, slot = heapq.heappop(running)
        slot.free_since_s = now_s
        servers[at].idle.append(slot)
        start(at)  # what waits in the server gets the slot before the worker has heard of the end
        with views[at].transaction() as transaction:
            transaction.finish(claim, TaskState.COMPLETED, Trail(result={}))
            claim = transaction.claim(lanes, spread=not reserve)
        if claim is not None:
            servers[at].waiting.append(claim)
            start(at)
    return sum(server.evaluated for server in servers), now_s


def _request(text: str) -> dict[str, Any]:
    return {"request": {"messages": [{"role": "user", "content": text}]}}


def table() -> str:
    """Markdown: one line for each set-up, first in virtual time, then through whole swarms."""
    lines = ["| servers | workers | slots | sent beyond | evaluated / least, ordered | not ordered | time, ordered / not |"]
    lines.append("|---|---|---|---|---|---|---|")

    def add(kind: str, workers: int, slots: int, reserve: str, on: Evaluated, off: Evaluated) -> None:
        time_share = f"{on.took_s / off.took_s:.2f}" if kind == "modelled" else ""
        lines.append(f"| {kind} | {workers} | {slots} | {reserve} | {on.ratio:.2f} | {off.ratio:.2f} | {time_share} |")

    for workers, slots, reserve in SETUPS:
        on, off = (evaluate(workers, slots, reserve, ordered=ordered) for ordered in (True, False))
        add("modelled", workers, slots, str(reserve), on, off)
    for workers, slots in REAL_SETUPS:
        on, off = (evaluate_real(workers, slots, ordered=ordered) for ordered in (True, False))
        add("simulated", workers, slots, "", on, off)
    return "\n".join(lines)


if __name__ == "__main__":
    sys.path[:0] = [str(HOME)]
    print(table())
