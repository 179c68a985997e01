"""How busy the slots of four cards are, in this machine, behind relays and in a Ray cluster; and processor time for a task.

A slot is busy while its simulated server works on a request, which always takes equally long: what is left of the time went
into the way of the task. Counted from when the last card has begun its first request.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil
from benchmarks.throughput_live import CONTEXT, chat_task, enqueue, swarm, until

from swarm.proc.env_markers import ROOT_MARKER, find_marked
from swarm.queue.batches.batch_watch import BatchWatch
from swarm.queue.file_queue import FileQueue
from swarm.queue.stores import registry
from tests.helpers.ray_cluster import RayCluster
from tests.helpers.relay import RunningRelay

CARDS, SLOTS = 4, 4
IDLE_S = 20.0
"""What all of it takes while there is nothing to do is measured for so long, before the work."""
KINDS = {
    "simulator": "model servers",
    "--relay": "relays",
    "relay_guard": "relays",
    "worker": "workers",
    "brain": "brain",
    "ray": "driver",
    "up": "supervisor",
}
"""Words of command lines, and whose they are."""
Pids = Callable[[], set[int]]


def measure(way: str, tasks: int, request_s: float) -> dict[str, Any]:
    """``way``: ``local``, ``relays`` or ``ray``."""
    with _swarm(way, request_s) as (queue, pids):
        began_s = time.monotonic()
        until(lambda: _usable(queue) == CARDS, f"{CARDS} workers", 300)
        until_usable_s = time.monotonic() - began_s
        idle = _cpu_s(pids())
        time.sleep(IDLE_S)
        before = _cpu_s(pids())
        ids = enqueue(queue, [chat_task(f"question {number}") for number in range(tasks)])
        watch = BatchWatch(queue.layout, ids)
        until(lambda: not watch.look().left, "all tasks", 60 + 4 * tasks * request_s / CARDS / SLOTS)
        spent_s = {kind: s - before[kind] for kind, s in _cpu_s(pids()).items()}
        attempts = [one for number in ids for one in queue.read(number)["attempts"]]
    found = _busy(attempts, request_s)
    return {
        "tasks": len(ids),
        "attempts": len(attempts),
        "request_s": request_s,
        "usable_after_s": round(until_usable_s, 1),
        **found,
        "idle_pct_of_a_core": {kind: round(100 * (s - idle[kind]) / IDLE_S, 2) for kind, s in sorted(before.items())},
        "cpu_ms_per_task": {kind: round(1000 * s / tasks, 2) for kind, s in sorted(spent_s.items()) if s > 0},
    }


def _busy(attempts: list[dict[str, Any]], request_s: float) -> dict[str, Any]:
    spans = [(one["worker"], _seconds(one["started_at"]), _seconds(one["ended_at"])) for one in attempts]
    first: dict[str, float] = {}
    for worker, start_s, _ in spans:
        first[worker] = min(start_s, first.get(worker, start_s))
    from_s, to_s = max(first.values()), max(end_s for _, _, end_s in spans)
    inside = sum(max(0.0, end_s - max(start_s, from_s)) / (end_s - start_s) for _, start_s, end_s in spans)
    over_ms = [1000 * (end_s - start_s - request_s) for _, start_s, end_s in spans]
    return {
        "busy_share": round(inside * request_s / (to_s - from_s) / CARDS / SLOTS, 4),
        "seconds": round(to_s - from_s, 1),
        "tasks_per_s": round(inside / (to_s - from_s), 2),
        "attempt_over_request_ms": {
            "p50": round(statistics.median(over_ms), 1),
            "p99": round(sorted(over_ms)[int(0.99 * len(over_ms))], 1),
        },
        "by_worker": dict(sorted(Counter(worker for worker, _, _ in spans).items())),
    }


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def _usable(queue: FileQueue) -> int:
    beats = [registry.read_heartbeat(queue.layout, name) for name in queue.worker_names()]
    return sum(beat is not None and bool(beat.servable) for beat in beats)


@contextmanager
def _swarm(way: str, request_s: float) -> Iterator[tuple[FileQueue, Pids]]:
    """It runs; and the processes of all of it, wherever they are."""
    config = f"[llm]\nslots = {SLOTS}\n[sim]\nrequest_s = {request_s}\nload_s = 0.5\n"
    env = CONTEXT | {"OLLAMA_NUM_PARALLEL": str(SLOTS), "SWARM_SIM_RUNNER": "none"}
    with ExitStack() as open_things:
        folder = open_things.enter_context(tempfile.TemporaryDirectory(prefix="swarm-bench-"))
        if way == "local":
            queue = open_things.enter_context(swarm(config, simulate=CARDS, **env))
            yield queue, lambda: _marked(queue.layout.root)
        elif way == "relays":
            relays = [_relay(Path(folder), f"box{n}", config, env, open_things) for n in range(2, 2 + CARDS)]
            tokens = {f"TOKEN_{n}": relay.token for n, relay in enumerate(relays)}
            workers = "".join(_worker(n, relay) for n, relay in enumerate(relays))
            queue = open_things.enter_context(swarm(config + workers, **env, **tokens))
            roots = [queue.layout.root, *(str(relay.root) for relay in relays)]
            own = {relay.process.pid for relay in relays}
            yield queue, lambda: own | {pid for root in roots for pid in _marked(root)}
        else:
            cluster = open_things.enter_context(RayCluster(cards=1, env={**env, "XDG_STATE_HOME": folder}))
            for number in range(2, 1 + CARDS):
                cluster.add(f"n{number}", cards=1)
            ray = f"[ray]\naddress = {json.dumps(cluster.address)}\n"
            queue = open_things.enter_context(swarm(config + ray, simulate=1, **env))
            root = queue.layout.root
            yield queue, lambda: {pid for node in cluster.nodes.values() for pid in node.pids} | _marked(root)


def _relay(folder: Path, node: str, config: str, env: dict[str, str], open_things: ExitStack) -> RunningRelay:
    relay = RunningRelay(folder / node, "--node", node, config=config, env=env)
    open_things.callback(relay.destroy)
    return relay


def _worker(number: int, relay: RunningRelay) -> str:
    node = relay.ready.node
    return (
        f'[[workers]]\nname = "{node}-gpu0"\nurl = "{relay.ready.url}/cards/gpu0"\n'
        f'token_env = "TOKEN_{number}"\nnode = "{node}"\n'
    )


def _marked(root: str) -> set[int]:
    return {one.pid for one in find_marked(**{ROOT_MARKER: root})}


def _cpu_s(pids: set[int]) -> Counter[str]:
    """Processor seconds of all these so far, by whose they are."""
    found: Counter[str] = Counter()
    for pid in pids:
        try:
            process = psutil.Process(pid)
            words, times = process.cmdline(), process.cpu_times()
        except psutil.Error:
            continue
        kind = next(
            (kind for word, kind in KINDS.items() if any(word in (one, one.rpartition(".")[2]) for one in words)), "Ray"
        )
        found[kind] += times.user + times.system
    return found
