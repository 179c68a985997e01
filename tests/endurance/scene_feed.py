"""A feed: a very long file through `swarm feed` while workers empty the queue, and both are killed at random."""

from __future__ import annotations

import argparse
import concurrent.futures
import hashlib
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

from swarm.core.lanes import llm_lane
from swarm.core.task import TaskState
from swarm.core.workflow.feed import FeedState, task_id_of
from swarm.queue.codec import parse_document
from swarm.queue.stores.feeds import FeedBook
from tests.endurance.line_checks import Expected, LineLedger
from tests.endurance.reporting import Teller
from tests.endurance.scene_common import MODEL, Arena, SceneReport, dice_of, size, teller
from tests.endurance.scene_drain import answer_to

MOST_WAITING = 4000
"""Lower mark of the feed, of a long one; the upper is twice that."""
DRAIN = Path(__file__).with_name("scene_drain.py")
LOOK_S = 0.02
BLIND_S = 0.2
"""Without a look for so long: this process stood still, and what it was to shoot at may have passed by."""
Shot = tuple[int, str, float]
"""At which line or soon after it, at whom, so many seconds later."""
JUDGES = 2
LEFT = (TaskState.PENDING, TaskState.BLOCKED, TaskState.PROCESSING, TaskState.FAILED, TaskState.CANCELLED, TaskState.CORRUPT)


def add_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--lines", type=int, help="of the file (1,000,000; quick 5000)")
    group.add_argument("--feed-kills", type=int, help="of the feeder, and as many of workers (20; quick 5)")
    group.add_argument("--drains", type=int, default=2, help="worker processes")
    group.add_argument("--source", choices=("file", "csv", "command"), default="file", help="what is fed")


def prompt_of_line(number: int) -> str:
    """Of one to five lines' length, different in each."""
    mark = hashlib.blake2b(number.to_bytes(8, "big"), digest_size=16).hexdigest()
    return f"line {number}: " + mark * (1 + number % 5)


def scene(options: argparse.Namespace) -> SceneReport:
    """Feed and empty while shooting, then read every record."""
    lines = size(options.lines, options, full=1_000_000, quick=5000)
    kills = size(options.feed_kills, options, full=20, quick=5)
    say = teller(options)
    report = SceneReport(name=f"feed: {lines:,} lines, {kills} + {kills} kills, --seed {options.seed}")
    say(report.name)
    with Arena("feed", options, SWARM_QUEUE__DURABILITY="fast", SWARM_LOGGING__LEVEL="WARNING") as arena:
        numbers = range(2, lines + 2) if options.source == "csv" else range(1, lines + 1)  # behind a header
        source = _source(arena, options.source, numbers)
        say("the input is written")
        run = _Run(arena, source, lines, _moments(dice_of(options, "feed"), lines, kills), say)
        try:
            run.work(options.drains)
        finally:
            run.end()
        say(f"worked in {run.took_s:.0f} s; reading the records")
        began_s = time.monotonic()
        _judge(arena, run.feed_id, numbers, report, clear=not options.keep)
        report.figures |= run.figures() | {"reading and removing all records, s": round(time.monotonic() - began_s, 1)}
        report.findings += run.missing()
        if report.findings:
            arena.keep()
    report.took_s = say.took_s
    return report


def _moments(dice: random.Random, lines: int, kills: int) -> list[Shot]:
    """Each victim as often, spread over all of the input."""
    latest, later_s = lines * 9 // 10, min(0.5, lines / 200_000)
    whoms = ("feeder", "worker")
    shots = [(dice.randrange(latest), whom, dice.uniform(0.0, later_s)) for whom in whoms for _ in range(kills)]
    return sorted(shots)


def _source(arena: Arena, kind: str, numbers: range) -> list[str]:
    """Write the input; the words of `swarm feed` that name it."""
    path = arena.path("in.csv" if kind == "csv" else "in.jsonl")
    with open(path, "w", encoding="utf-8") as file:
        if kind == "csv":
            file.write("n,prompt\n")
        for number in numbers:
            text = prompt_of_line(number)
            file.write(f'{number},"{text}"\n' if kind == "csv" else json.dumps({"prompt": text, "n": number}) + "\n")
    return ["--command", f"cat {path}", "--format", "jsonl"] if kind == "command" else [path]


class _Run:
    """The processes of one run."""

    def __init__(self, arena: Arena, source: list[str], lines: int, shots: list[Shot], say: Teller) -> None:
        self._arena, self._source, self._lines, self._say = arena, source, lines, say
        self._shots = shots
        self._book = FeedBook(arena.queue.layout, arena.queue.storage)
        self._workers: dict[str, subprocess.Popen[str]] = {}
        self._brain: subprocess.Popen[str] | None = None
        self._hits: dict[str, list[int]] = {"feeder": [], "worker": []}
        self._peaks_mib: dict[str, float] = {"feeder": 0.0, "brain": 0.0}
        self.feed_id = ""
        self.took_s = self.fed_s = 0.0
        self._began_s = self._blind_s = 0.0

    def work(self, workers: int) -> None:
        """Until all is fed and nothing is left."""
        self._brain = self._start("brain", "brain")
        for number in range(1, workers + 1):
            self._worker(f"drain-{number}")
        self._began_s = time.monotonic()
        feeder = self._feeder()
        said_s = looked_s = time.monotonic()
        while feeder.poll() is None or self._left():  # counting is dear, so it begins when the feeder has ended
            time.sleep(LOOK_S)
            before_s, looked_s = looked_s, time.monotonic()
            self._blind_s = max(self._blind_s, looked_s - before_s)
            self._watch(feeder)
            state = self._state()
            if time.monotonic() - said_s > 10:
                said_s = time.monotonic()
                self._say(f"line {0 if state is None else state.number:,}")
            if feeder.poll() is None:
                feeder = self._shoot(feeder, state)
            elif feeder.returncode:
                raise RuntimeError(f"the feeder ended with {feeder.returncode}: {self._said('feeder')}")
            elif not self.fed_s:
                self.fed_s = time.monotonic() - self._began_s
        self.took_s = time.monotonic() - self._began_s

    def _start(self, name: str, *words: str) -> subprocess.Popen[str]:
        with open(self._arena.path(f"{name}.out"), "a", encoding="utf-8") as out:
            return self._arena.start(*words, stdout=out, stderr=out)

    def _feeder(self) -> subprocess.Popen[str]:
        low = min(MOST_WAITING, self._lines // 20)
        marks = ("--min", str(low), "--target", str(2 * low))
        return self._start("feeder", "feed", *self._source, "--model", MODEL, *marks, "--quiet")

    def _worker(self, name: str) -> None:
        with open(self._arena.path(f"{name}.out"), "a", encoding="utf-8") as out:
            argv = [sys.executable, str(DRAIN), name, llm_lane(MODEL)]
            self._workers[name] = subprocess.Popen(
                argv, env=self._arena.env, cwd=self._arena.home, stdout=out, stderr=out, text=True
            )

    def _state(self) -> FeedState | None:
        if not self.feed_id:
            names = self._book.names()
            self.feed_id = names[0] if names else ""
        return self._book.find(self.feed_id) if self.feed_id else None

    def _left(self) -> int:
        states = (TaskState.PENDING, TaskState.BLOCKED, TaskState.PROCESSING)
        return sum(1 for state in states for _ in self._arena.queue.list(state))

    def _watch(self, feeder: subprocess.Popen[str]) -> None:
        """Peaks of memory; workers that died by themselves are no part of the plan."""
        assert self._brain is not None
        for name, process in (("feeder", feeder), ("brain", self._brain)):
            self._peaks_mib[name] = max(self._peaks_mib[name], _peak_mib(process.pid))
        for name, worker in self._workers.items():
            if worker.poll() is not None:
                raise RuntimeError(f"{name} ended by itself with {worker.returncode}: {self._said(name)}")

    def _said(self, name: str) -> str:
        return Path(self._arena.path(f"{name}.out")).read_text(encoding="utf-8")[-2000:]

    def _shoot(self, feeder: subprocess.Popen[str], state: FeedState | None) -> subprocess.Popen[str]:
        """Fire the next shot once the cursor is there; the feeder that lives after it."""
        if state is None or not self._shots or state.number < self._shots[0][0]:
            return feeder
        _, whom, later_s = self._shots.pop(0)
        if whom == "feeder" and len(self._hits["feeder"]) % 2:
            self._wait_for_tasks()
        else:
            time.sleep(later_s)
        if whom == "feeder" and feeder.poll() is not None:
            return feeder
        if whom == "feeder":
            self._watch(feeder)
            self._kill("feeder", feeder)
            return self._feeder()
        name = sorted(self._workers)[len(self._hits["worker"]) % len(self._workers)]
        self._kill("worker", self._workers[name])
        self._worker(name)
        return feeder

    def _wait_for_tasks(self) -> None:
        """The worst moment: its next tasks are there, and its cursor has not moved yet."""
        lane = self._arena.queue.layout.lane(llm_lane(MODEL))
        before, until_s = set(os.listdir(lane)), time.monotonic() + 2.0
        while set(os.listdir(lane)) <= before and time.monotonic() < until_s:
            pass

    def _kill(self, whom: str, process: subprocess.Popen[str]) -> None:
        process.send_signal(signal.SIGKILL)
        process.wait()
        state = self._state()
        self._hits[whom].append(0 if state is None else state.number)

    def end(self) -> None:
        """In order, what still lives."""
        for process in (*self._workers.values(), self._brain):
            if process is not None and process.poll() is None:
                process.terminate()
                process.wait(60)

    def missing(self) -> list[str]:
        """Shots for which the run was over too soon."""
        number = len(self._shots) if self._blind_s < BLIND_S else 0
        return [f"{number} of the kills did not come to pass: all was fed before; take more lines"] if number else []

    def figures(self) -> dict[str, Any]:
        """For the table."""
        told = {row["feed_id"]: row for row in self._arena.swarm_json("feeds")["feeds"]}[self.feed_id]
        return {
            "worked by": f"{len(self._workers)} claim-and-finish processes, no model server",
            "lines": self._lines,
            "waiting, between": f"{told['min']} and {told['target']}",
            "feeder killed": _places(self._hits["feeder"]),
            "worker killed": _places(self._hits["worker"]),
            "longest time without a look, s": round(self._blind_s, 2),
            "lines offered again after a kill": told["again"],
            "from the first line to the last end, s": round(self.took_s, 1),
            "lines a second, fed and worked": round(self._lines / self.took_s),
            "feeder: peak memory, MiB": round(self._peaks_mib["feeder"], 1),
            "brain: peak memory, MiB": round(self._peaks_mib["brain"], 1),
        }


def _places(cursors: list[int]) -> str:
    return f"{len(cursors)}, at line " + ", ".join(f"{cursor:,}" for cursor in cursors) if cursors else "0"


def _peak_mib(pid: int) -> float:
    try:
        with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as file:
            peaks = [line.split()[1] for line in file if line.startswith("VmHWM:")]
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return int(peaks[0]) / 1024 if peaks else 0.0


def _judge(arena: Arena, feed_id: str, numbers: range, report: SceneReport, *, clear: bool) -> None:
    """All that lies in the queue, read as it lies there, in flat memory."""
    told = {row["feed_id"]: row for row in arena.swarm_json("feeds")["feeds"]}[feed_id]
    report.findings += cursor_findings(told, numbers, None if told["is_command"] else os.path.getsize(told["source"]))
    for state in LEFT:
        left = sum(1 for _ in arena.queue.list(state))
        if left:
            report.findings.append(f"{left} tasks are left in {state}")
    ledger = LineLedger(numbers)
    shards = sorted(entry.path for entry in os.scandir(f"{arena.root}/completed"))
    with concurrent.futures.ProcessPoolExecutor(JUDGES) as pool:
        for found in pool.map(partial(_shard, feed_id, clear=clear), shards):
            ledger.note(found)
    report.findings += ledger.findings()
    order = Path(arena.root, "batches", f"{feed_id}.order")
    report.findings += order_findings(order, feed_id, numbers)
    report.figures["records read"] = ledger.records


def _shard(feed_id: str, folder: str, *, clear: bool) -> list[int | str]:
    """The records of one directory. With ``clear`` good ones go at once, for removing a million files takes as long as
    reading them, and alone longer.
    """
    expected = Expected(feed_id, prompt_of_line, answer_to)
    found = []
    for name in os.listdir(folder):
        with open(f"{folder}/{name}", "rb") as file:
            found.append(expected.line_of(parse_document(file.read())))
        if clear and isinstance(found[-1], int):
            os.unlink(f"{folder}/{name}")
    return found


def cursor_findings(told: dict[str, Any], numbers: range, size_bytes: int | None) -> list[str]:
    """`swarm feeds` says that all was fed; ``size_bytes`` None: nobody knows how much that is."""
    wanted = {"status": "finished", "accepted": len(numbers), "number": numbers[-1], "rejected": 0, "alive": False}
    if size_bytes is not None:
        wanted["offset"] = size_bytes
    return [f"`swarm feeds` says {name} {told[name]}, not {value}" for name, value in wanted.items() if told[name] != value]


def order_findings(path: Path, feed_id: str, numbers: range) -> list[str]:
    """The feed as a batch names each task once, in the input's order."""
    wanted = itertools.chain((f"{task_id_of(feed_id, number)}\n" for number in numbers), [""])
    with path.open(encoding="ascii") as file:
        for line, right in zip(itertools.chain(file, [""]), wanted, strict=False):
            if line != right:
                return [f"{path}: {line.strip() or 'the end'} where {right.strip() or 'the end'} should be"]
    return []
