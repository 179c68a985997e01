"""The house at its full size: a tick of the brain, the commands, recovery, submission, and the first of a million."""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.adapter import mono
from benchmarks.forks import in_child
from benchmarks.ours import SwarmFast
from benchmarks.work import document, warm

from swarm.brain.observe import Observer
from swarm.clock import now_iso
from swarm.config.settings import Settings
from swarm.core.policy.decide import decide
from swarm.core.task import TaskState
from swarm.queue.batches.batch_book import Manifest
from swarm.queue.file_queue import FileQueue
from swarm.queue.fsck.fsck import recover_root

MODELS = ("llama3.2:3b", "qwen2.5:7b", "gemma2:2b")
LANES = [f"llm@{model}" for model in MODELS]
Say = Callable[[str], None]


class AnyModel(SwarmFast):
    """Takes tasks of all three models."""

    lanes = LANES


def mixed(count: int, first: int = 0) -> Iterator[dict[str, Any]]:
    """Three models, three priorities."""
    for number in range(first, first + count):
        yield document(number, MODELS[number % 3], (5, 5, 5, 8, 2)[number % 5])


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def submit(root: str, count: int) -> dict[str, float]:
    """Through the batch book, as ``swarm submit`` does: tasks a second (flushed), and the memory at the peak."""
    queue = FileQueue(root).prepare()
    manifest = Manifest(batch_id=f"b{count}", source="made up", format="jsonl", created_at=now_iso())
    start_s, before = mono(), peak_mib()
    for _ in queue.batches().submit(manifest, ((f"key-{i:09d}", d) for i, d in enumerate(mixed(count)))):
        pass
    return {"per_s": count / (mono() - start_s), "peak_mib": peak_mib(), "grown_mib": peak_mib() - before}


def finish_some(root: str, count: int, durable: str = "fast") -> float:
    """Claim and finish so many; tasks a second."""
    adapter = AnyModel(os.path.dirname(root))
    adapter.durable = durable
    adapter.open(77)
    adapter.begin()
    start_s = mono()
    for _ in range(count):
        found = adapter.claim()
        if found is None:
            raise RuntimeError("the queue is empty")
        adapter.ack(found[1])
    return count / (mono() - start_s)


def first_thousand(root: str, *, arriving: bool) -> float:
    """CPU milliseconds of the first thousand cycles of a fresh worker, with or without 200 new tasks a second.

    Of the processor, because the ratio of two times on the wall says more about what else the machine does.
    """
    for lane in LANES:
        warm(f"{root}/pending/{lane}", 3000)
    stop = None
    if arriving:
        code = (
            f"import sys; sys.path.insert(0, {os.path.dirname(os.path.dirname(__file__))!r})\n"
            "import time\nfrom benchmarks import ours as bench_ours\nfrom benchmarks.house import mixed\n"
            f"q = bench_ours.FileQueue({root!r}, 'fast')\n"
            "for d in mixed(1 << 30):\n    q.enqueue(d); time.sleep(0.005)\n"
        )
        stop = subprocess.Popen([sys.executable, "-c", code])
        time.sleep(0.7)
    try:
        start_s = time.process_time()
        finish_some(root, 1000)
        return 1000 * (time.process_time() - start_s)
    finally:
        if stop is not None:
            stop.kill()
            stop.wait()


def ticks(root: str, number: int = 20) -> dict[str, float]:
    """CPU milliseconds of the brain's looks and decisions: the first, and later ones with a few changes in between."""
    queue = FileQueue(root)
    view = queue.brain_view(lambda _attempts: 0.0)
    settings = Settings()
    observer = Observer(view, None, settings)
    producer, later = FileQueue(root, "fast"), []
    start_s = time.process_time()
    decide(observer.snapshot(), settings)
    first = time.process_time() - start_s
    for round_ in range(number):
        for task in mixed(5, round_):
            producer.enqueue(task)
        time.sleep(0.1)
        start_s = time.process_time()
        decide(observer.snapshot(), settings)
        later.append(1000 * (time.process_time() - start_s))
    found = {"first_ms": 1000 * first, "median_ms": statistics.median(later), "worst_ms": max(later), "peak_mib": peak_mib()}
    quiet = []
    for _ in range(10):
        time.sleep(0.05)
        start_s = time.process_time()
        decide(observer.snapshot(), settings)
        quiet.append(1000 * (time.process_time() - start_s))
    return {**found, "unchanged_ms": statistics.median(quiet)}


def recovery(root: str) -> dict[str, float]:
    """Seconds until a new brain has taken back what a dead worker held: looking after leftovers, taking back, first look."""

    def die() -> None:
        adapter = AnyModel(os.path.dirname(root))
        adapter.open(78)
        adapter.begin()
        for _ in range(64):
            adapter.claim()

    in_child(die)
    queue = FileQueue(root)
    start_s = mono()
    recover_root(queue.layout, queue.storage)
    leftovers_s = mono() - start_s
    view = queue.brain_view(lambda _attempts: 0.0)
    taken = view.recover("worker-78") or ()
    took_s = mono() - start_s - leftovers_s
    decide(Observer(view, None, Settings()).snapshot(), Settings())
    return {"leftovers_s": leftovers_s, f"take_back_{len(taken)}_s": took_s, "in_all_s": mono() - start_s}


def command_s(root: str, *words: str, rounds: int = 5) -> str:
    """Wall seconds of a command, Python's start included, and what of that was its own work; medians.

    Modules are compiled first, as those of a program are that ran once before.
    """
    package = str(Path(__file__).resolve().parents[2] / "swarm")
    subprocess.run([sys.executable, "-m", "compileall", "-q", package], check=True)
    env = {**os.environ, "SWARM_ROOT": root}
    command = [sys.executable, "-m", "swarm", *words]
    found, work = [], []
    for _ in range(rounds):
        start_s, before = mono(), os.times()
        subprocess.run(command, env=env, stdout=subprocess.DEVNULL, check=False)
        after = os.times()
        found.append(mono() - start_s)
        work.append(after.children_user + after.children_system - before.children_user - before.children_system)
    first = f"; the first time {found[0]:.2f} ({work[0]:.2f})" if rounds > 1 and words[0] in ("status", "queue") else ""
    return f"{statistics.median(found):.2f} ({statistics.median(work):.2f}){first}"


def report(work: str, pending: int, say: Say) -> str:
    """Build it, measure, and tell in a Markdown table."""
    root = f"{work}/house/queue"
    small = f"{work}/small/queue"
    os.makedirs(os.path.dirname(root))
    os.makedirs(os.path.dirname(small))
    done = pending // 10
    rows: list[tuple[str, str, str]] = []

    def row(what: str, measured: str, wanted: str = "") -> None:
        rows.append((what, measured, wanted))
        say(f"{what}: {measured}")

    few = in_child(submit, small, 10_000)
    row("submit 10,000: tasks a second; memory at the peak", f"{few['per_s']:,.0f}; {few['peak_mib']:.0f} MiB")
    many = in_child(submit, root, pending + done)
    row(
        f"submit {pending + done:,}: tasks a second, flushed; memory at the peak",
        f"{many['per_s']:,.0f}; {many['peak_mib']:.0f} MiB",
        "10,000; the same as above",
    )
    base = [in_child(lambda: first_thousand(small, arriving=False)) for _ in range(5)]
    deep = [in_child(lambda: first_thousand(root, arriving=False)) for _ in range(5)]
    while_arriving = [in_child(lambda: first_thousand(root, arriving=True)) for _ in range(3)]
    small_arriving = [in_child(lambda: first_thousand(small, arriving=True)) for _ in range(3)]
    row("first 1,000 of up to 10,000, CPU ms", f"{statistics.median(base):.0f}")
    row(f"first 1,000 of {pending:,}, CPU ms", f"{statistics.median(deep):.0f}")
    row("ratio of the two", f"{statistics.median(deep) / statistics.median(base):.2f}", "at most 1.2")
    ratio = statistics.median(while_arriving) / statistics.median(small_arriving)
    row("the same while 200 tasks a second arrive", f"{ratio:.2f}", "at most 1.2")
    rate = in_child(finish_some, root, done)
    row(f"finishing {done:,}, unflushed, tasks a second", f"{rate:,.0f}")
    tick = in_child(ticks, root)
    row("brain: first look, CPU ms", f"{tick['first_ms']:.0f}")
    row(
        "brain: a tick after five new tasks, CPU ms, median (worst)",
        f"{tick['median_ms']:.1f} ({tick['worst_ms']:.1f})",
        "50",
    )
    row("brain: a tick when nothing changed, CPU ms", f"{tick['unchanged_ms']:.1f}", "50")
    row("brain: memory at the peak, MiB", f"{tick['peak_mib']:.0f}", "150")
    again = in_child(recovery, root)
    row("recovery at the start, s", ", ".join(f"{k[:-2].replace('_', ' ')} {v:.2f}" for k, v in again.items()), "5")
    queue = FileQueue(root)
    waiting = last_waiting(queue)
    ended = next(queue.list(TaskState.COMPLETED)).task_id
    row("`swarm --help`, s (of it CPU)", command_s(root, "--help"), "0.2")
    row("`swarm status`, s (of it CPU)", command_s(root, "status"), "1")
    row("`swarm queue stats`, s (of it CPU)", command_s(root, "queue", "stats"), "1")
    row("`swarm queue show` of a waiting task, s (of it CPU)", command_s(root, "queue", "show", waiting), "0.2")
    row("`swarm queue show` of a finished task, s (of it CPU)", command_s(root, "queue", "show", ended), "0.2")
    lines = [f"### The house at {pending:,} waiting and {done:,} done", "", "| | measured | wanted |", "|---|--:|--:|"]
    lines += [f"| {what} | {measured} | {wanted} |" for what, measured, wanted in rows]
    return "\n".join([*lines, "", f"Load at the end: {os.getloadavg()[0]:.1f}."])


def last_waiting(queue: FileQueue) -> str:
    """A task in the last bucket of the last lane: the dearest to find."""
    lane = max(os.listdir(queue.layout.pending))
    bucket = max(os.listdir(queue.layout.lane(lane)))
    return os.listdir(f"{queue.layout.lane(lane)}/{bucket}")[0].split(".")[0]
