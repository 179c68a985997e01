"""Cells: one figure each, measured in forked processes so that nothing is shared over a fork.

Nothing is deleted before the end of the run: on ext4 without a journal an inode freed a moment ago makes every create in
its group slower, and a benchmark that cleans up between cells measures that.
"""

from __future__ import annotations

import os
import random
import signal
import time
from typing import Any

from benchmarks.adapter import Adapter, mono
from benchmarks.forks import ctx, in_child, together
from benchmarks.ours import SwarmFull, slots_rate
from benchmarks.work import Floor, document

Cell = dict[str, Any]


def floor_rate(root: str, operation: str, processes: int, sync: str, count: int, limit_s: float) -> Cell:
    """Operations a second in all, of plain system calls; and processor time of each."""
    share = count // processes
    names = [[f"{number:02d}-{i:07d}" for i in range(share)] for number in range(processes)]
    in_child(Floor(root, sync).prepare, operation, [n for part in names for n in part])

    def body(number: int, barrier: Any) -> tuple[int, float, float, float]:
        one = Floor(root, sync).one(operation)
        barrier.wait()
        start_s, cpu_s = mono(), time.process_time()
        done = 0
        for name in names[number]:
            one(name)
            done += 1
            if not done & 15 and mono() - start_s > limit_s:
                break
        return done, start_s, mono(), time.process_time() - cpu_s

    parts = together(processes, body)
    return {"rate": _rate([p[:3] for p in parts]), "cpu_us": _cpu_us([(p[0], p[3]) for p in parts]), "capped": False}


def _cpu_us(parts: list[tuple[int, float]]) -> float:
    """Microseconds on the processor per task; others on the machine disturb it little."""
    return 1e6 * sum(cpu_s for _, cpu_s in parts) / max(1, sum(done for done, _ in parts))


def _rate(parts: list[tuple[int, float, float]]) -> float:
    return sum(p[0] for p in parts) / max(1e-9, max(p[2] for p in parts) - min(p[1] for p in parts))


def enqueue_rate(adapter: Adapter, count: int, limit_s: float) -> float:
    """Tasks a second, put one by one by one process."""

    def body() -> float:
        adapter.open()
        adapter.put(document(0))
        start_s = mono()
        done = 0
        while done < count and (done & 15 or mono() - start_s < limit_s):
            done += 1
            adapter.put(document(done))
        return done / (mono() - start_s)

    return float(in_child(body))


def bulk_rate(adapter: Adapter, count: int) -> float:
    """Tasks a second through the queue's own bulk door."""

    def body() -> float:
        adapter.open()
        tasks = [document(i) for i in range(count)]
        start_s = mono()
        adapter.fill(tasks)
        return count / (mono() - start_s)

    return float(in_child(body))


def fill(adapter: Adapter, count: int) -> None:
    def body() -> None:
        adapter.open()
        adapter.fill(document(i) for i in range(count))

    in_child(body)


def drain_rate(adapter: Adapter, processes: int, limit_s: float, most: int = 1 << 60) -> Cell:
    """Claim and finish until empty, ``most`` a process, or the time is up: rate, and what was lost or given twice."""

    def body(number: int, barrier: Any) -> tuple[int, float, float, list[str], bool, float]:
        adapter.open(number)
        adapter.begin()
        names: list[str] = []
        barrier.wait()
        start_s = last_s = mono()
        cpu_s = time.process_time()
        barren = 0
        found: tuple[str, Any] | None = None
        while len(names) < most and barren < 5:
            if mono() - start_s > limit_s:
                return len(names), start_s, mono(), names, True, time.process_time() - cpu_s
            if found is None:
                found = adapter.claim()
            if found is None:
                barren += 1
                time.sleep(0.003)
                continue
            barren = 0
            name, handle = found
            found = adapter.turn(handle) if adapter.turns else _ack(adapter, handle)
            names.append(name)
            last_s = mono()
        return len(names), start_s, last_s, names, False, time.process_time() - cpu_s

    parts = together(processes, body)
    names = [name for part in parts for name in part[3]]
    whole = [(p[0], p[1], p[2]) for p in parts if p[0]] or [(0, 0.0, 1.0)]
    return {
        "rate": _rate(whole),
        "cpu_us": _cpu_us([(p[0], p[5]) for p in parts]),
        "done": len(names),
        "twice": len(names) - len(set(names)),
        "capped": any(p[4] for p in parts),
    }


def _ack(adapter: Adapter, handle: Any) -> None:
    adapter.ack(handle)


def slots(path: str, count: int, number: int, limit_s: float) -> float:
    """Tasks a second of one worker with so many slots, everything flushed."""
    adapter = SwarmFull(path)
    fill(adapter, count)
    return float(in_child(slots_rate, adapter, number, limit_s))


def pick_up(adapter: Adapter, samples: int, budget_s: float) -> list[float]:
    """Milliseconds from ``put`` called to ``claim`` returned in another process that waits as this queue waits."""
    here, there = ctx.Pipe(duplex=False)

    def consume() -> None:
        adapter.open(1)
        adapter.begin()
        there.send(("up", 0.0))
        while True:
            found = adapter.wait(30)
            now_s = mono()
            if found is not None:
                adapter.ack(found[1])
                there.send((found[0], now_s))

    consumer = ctx.Process(target=consume, daemon=True)
    consumer.start()

    def produce() -> list[float]:
        if not here.poll(30):
            raise RuntimeError("the waiting process did not come up")
        here.recv()
        adapter.open()
        gaps = random.Random(7)
        end_s = mono() + budget_s
        found = []
        for number in range(samples):
            time.sleep(gaps.uniform(0.01, 0.1))
            start_s = mono()
            adapter.put(document(number))
            if not here.poll(max(0.5, end_s - mono())):
                break
            found.append(1000 * (here.recv()[1] - start_s))
            if mono() > end_s:
                break
        return found

    try:
        return list(in_child(produce))
    finally:
        consumer.kill()
        consumer.join()


def killed(adapter: Adapter) -> str:
    """What becomes of a task whose worker is killed with SIGKILL."""
    here, there = ctx.Pipe(duplex=False)

    def hold() -> None:
        adapter.open(1)
        adapter.put(document(1))
        adapter.begin()
        there.send(adapter.claim() is not None)
        signal.pause()

    holder = ctx.Process(target=hold)
    holder.start()
    here.recv()
    os.kill(holder.pid or 0, signal.SIGKILL)
    holder.join()

    def again() -> str:
        adapter.open(2)
        adapter.begin()
        if adapter.claim() is not None:
            return "back by itself"
        found = adapter.recover()
        return found if adapter.claim() is not None else ("not back" if found.startswith("stuck") else found)

    return str(in_child(again))
