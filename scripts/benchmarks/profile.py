"""The profiles: one claim-finish cycle and one tick of the brain, by own time, and the cycle's system calls."""

from __future__ import annotations

import cProfile
import io
import os
import pstats
import shutil
import subprocess
import sys
import time
from collections.abc import Callable

from benchmarks.adapter import mono
from benchmarks.forks import in_child
from benchmarks.house import submit
from benchmarks.ours import SwarmFast

from swarm.brain.observe import Observer
from swarm.config.settings import Settings
from swarm.core.policy.decide import decide
from swarm.queue.file_queue import FileQueue


def profile(work: str, cycles: int = 3000, pending: int = 50_000) -> str:
    """Where one cycle and one tick spend their time, by own time."""
    root = f"{work}/house/queue"
    os.makedirs(os.path.dirname(root))
    in_child(submit, root, pending)
    parts = []
    for number, durable in enumerate(("fast", "full")):
        adapter = SwarmFast(os.path.dirname(root))
        adapter.durable = durable
        adapter.open(number)
        adapter.begin()

        def cycle(adapter: SwarmFast = adapter) -> None:
            found = adapter.claim()
            if found is not None:
                adapter.ack(found[1])

        parts.append(_profiled(f"one claim-finish cycle, durability {durable}", cycle, cycles if durable == "fast" else 500))
    queue, settings = FileQueue(root), Settings()
    observer = Observer(queue.brain_view(lambda _attempts: 0.0), None, settings)
    observer.snapshot()
    time.sleep(0.1)
    parts.append(_profiled(f"one tick of the brain, {pending:,} waiting", lambda: decide(observer.snapshot(), settings), 50))
    if shutil.which("strace"):
        parts.append(_system_calls(root))
    return "\n".join(parts)


def _profiled(title: str, function: Callable[[], object], rounds: int) -> str:
    function()
    profiler = cProfile.Profile(
        mono if "full" in title else time.process_time
    )  # others on the machine disturb the wall clock
    start_s, cpu_s = mono(), time.process_time()
    for _ in range(rounds):
        function()
    wall, cpu = (mono() - start_s) / rounds * 1e6, (time.process_time() - cpu_s) / rounds * 1e6
    profiler.enable()
    for _ in range(rounds):
        function()
    profiler.disable()
    text = io.StringIO()
    pstats.Stats(profiler, stream=text).sort_stats("tottime")
    rows = [f"### {title}: {wall:,.0f} µs, of it {cpu:,.0f} µs on the processor (not profiled)", ""]
    rows += ["| µs a round, itself (profiled) | calls | what |", "|--:|--:|---|"]
    stats = pstats.Stats(profiler).stats  # type: ignore[attr-defined]
    entries = sorted(((own, calls, key) for key, (calls, _, own, _, _) in stats.items()), reverse=True)[:14]
    for own, calls, (file, _, name) in entries:
        place = name if file == "~" else f"{os.path.basename(file)}: {name}"
        rows.append(f"| {own / rounds * 1e6:.1f} | {calls / rounds:.1f} | `{place.strip('<>')}` |")
    return "\n".join([*rows, ""])


def _system_calls(root: str) -> str:
    """System calls of one cycle, counted by strace over the difference of two runs."""
    here = os.path.dirname(os.path.dirname(__file__))
    counts = []
    for cycles in (0, 400):
        code = (
            f"import sys; sys.path.insert(0, {here!r})\nfrom benchmarks.house import finish_some\n"
            f"finish_some({root!r}, 1)\nfinish_some({root!r}, {cycles})\n"
        )
        log = f"{root}.strace"
        command = ["strace", "-f", "-qq", "-c", "-o", log, sys.executable, "-c", code]
        if subprocess.run(command, check=False, capture_output=True).returncode:
            return "strace could not run here."
        with open(log, encoding="utf-8") as file:
            table = [line.split() for line in file if line.strip() and line.split()[-1] != "syscall"]
        counts.append({words[-1]: int(words[3]) for words in table if len(words) >= 5 and words[3].isdigit()})
    found = {n: (c - counts[0].get(n, 0)) / 400 for n, c in counts[1].items()}
    calls = ", ".join(f"{n} {v:.1f}" for n, v in sorted(found.items(), key=lambda e: -e[1]) if v >= 0.05 and n != "total")
    return f"System calls of one cycle, durability fast: {calls}.\n"
