"""The run: all cells of all queues and the floor, interleaved, repeated, in an order that turns with each repeat."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

from benchmarks import measure
from benchmarks.adapter import Adapter
from benchmarks.forks import in_child
from benchmarks.ours import OURS, SwarmPolling
from benchmarks.peers import PEERS
from benchmarks.picture import picture
from benchmarks.report import render
from benchmarks.work import Floor, Load, bulk_floor, machine, warm

Say = Callable[[str], None]
PROCESSES = (1, 2, 4)
SLOTS = 8
FIRST = 1000


class Run:
    """Collects results: ``cells[key]`` is one figure per repeat; keys are ``what|who|how much``."""

    def __init__(self, work: str, *, quick: bool, repeats: int, only: list[str], say: Say) -> None:
        self.work = work
        self.say = say
        self.quick = quick
        self.repeats = 1 if quick else repeats
        self.depths = (1000, 10_000) if quick else (1000, 10_000, 100_000)
        self.count = {"none": 800 if quick else 4000, "fsync": 400 if quick else 2400}
        self.limit_s = 1.5 if quick else 3.0
        self.floor = not only or "floor" in only
        wanted = [a for a in (*OURS, *PEERS) if not only or any(word in a.name for word in only)]
        self.skipped = {a.name: reason for a in wanted if (reason := a.missing())}
        self.adapters = [a for a in wanted if a.name not in self.skipped]
        self.cells: dict[str, list[Any]] = {}
        self.words: dict[str, str] = {}
        self.capped: set[str] = set()
        self.load = Load()
        self.backlogs: dict[tuple[str, int], Adapter] = {}
        self.folders = 0

    def folder(self) -> str:
        self.folders += 1
        path = f"{self.work}/{self.folders:04d}"
        os.mkdir(path)
        return path

    def note(self, key: str, function: Callable[[], Any]) -> None:
        """Measure one cell; an error of a queue is its result, not the end of the run."""
        if key in self.capped:
            return
        os.sync()  # what other cells left unwritten is not this one's to flush
        self.load.look()
        try:
            value = function()
        except RuntimeError as exc:
            self.say(f"  {key}: {exc}")
            self.words.setdefault(f"error|{key}", str(exc))
            self.capped.add(key)
            return
        if isinstance(value, dict):
            if value["capped"]:
                self.capped.add(key)
            self.words[f"twice|{key}"] = str(int(self.words.get(f"twice|{key}", "0")) + value.get("twice", 0))
            self.cells.setdefault(f"cpu {key}", []).append(value["cpu_us"])
            value = value["rate"]
        self.cells.setdefault(key, []).append(value)

    def with_adapter(self, kind: type[Adapter], function: Callable[[Adapter], Any]) -> Any:
        adapter = kind(self.folder())
        adapter.start()
        try:
            return function(adapter)
        finally:
            adapter.stop()

    def repeat(self, number: int) -> None:
        turn = number % max(1, len(self.adapters))
        order = self.adapters[turn:] + self.adapters[:turn]
        for processes in PROCESSES:
            self.floor_cells(processes)
            for kind in order:
                if kind.many or processes == 1:
                    self.drain_cell(kind, processes)
        self.slot_cell()
        for kind in order:
            if not kind.turns:
                self.enqueue_cell(kind)
        for depth in self.depths:
            for kind in order:
                self.depth_cell(kind, depth)
        for kind in (*order, *([SwarmPolling] if self.adapters and self.adapters[0] in OURS else [])):
            if kind.turns:
                continue
            self.pick_up_cell(kind)
            if number == 0 and kind is not SwarmPolling:
                self.words[f"killed|{kind.name}"] = self.with_adapter(kind, measure.killed)
        self.say(f"repeat {number + 1} of {self.repeats} done, load {os.getloadavg()[0]:.1f}")

    def floor_cells(self, processes: int) -> None:
        if not self.floor:
            return
        for operation in Floor.OPERATIONS:
            for sync in ("none", "lean", "all") if operation.startswith("cycle") else ("none", "all"):
                count = self.count["none" if sync == "none" else "fsync"]
                self.note(
                    f"floor|{operation}, {sync}|{processes}",
                    lambda o=operation, s=sync, c=count: measure.floor_rate(self.folder(), o, processes, s, c, self.limit_s),
                )
        if processes == 1:
            self.note("floor|bulk|1", lambda: in_child(bulk_floor, self.folder(), self.count["none"]))

    def drain_cell(self, kind: type[Adapter], processes: int) -> None:
        def cell(adapter: Adapter) -> Any:
            measure.fill(adapter, self.count[kind.sync] * (processes if kind.sync == "fsync" else 1))
            return measure.drain_rate(adapter, processes, self.limit_s)

        self.note(f"drain|{kind.name}|{processes}", lambda: self.with_adapter(kind, cell))

    def slot_cell(self) -> None:
        if any(kind in OURS for kind in self.adapters):
            count = 2 * self.count["fsync"]
            key = f"slots|swarm (full)|{SLOTS}"
            self.note(key, lambda: measure.slots(self.folder(), count, SLOTS, self.limit_s))

    def enqueue_cell(self, kind: type[Adapter]) -> None:
        count = self.count[kind.sync]
        one = f"enqueue|{kind.name}|1"
        self.note(one, lambda: self.with_adapter(kind, lambda a: measure.enqueue_rate(a, count, self.limit_s)))
        if kind in OURS:
            many = 4 * self.count["none"]
            key = f"bulk|{kind.name}|1"
            self.note(key, lambda: self.with_adapter(kind, lambda a: measure.bulk_rate(a, many)))

    def depth_cell(self, kind: type[Adapter], depth: int) -> None:
        """The first thousand of a backlog; a deep backlog is filled once and used by all repeats."""
        key = f"depth|{kind.name}|{depth}"
        if key in self.capped:
            return
        adapter = self.backlogs.pop((kind.name, depth), None)
        if adapter is None:
            adapter = kind(self.folder())
            adapter.start()
            measure.fill(adapter, depth)
        warm(adapter.waiting(), FIRST)
        self.note(key, lambda: measure.drain_rate(adapter, 1, self.limit_s, FIRST))
        if depth > 1000:
            self.backlogs[(kind.name, depth)] = adapter
        else:
            adapter.stop()

    def pick_up_cell(self, kind: type[Adapter]) -> None:
        samples, budget_s = (20, 1.5) if self.quick else (60, 4.0)
        self.note(f"pick-up|{kind.name}|1", lambda: self.with_adapter(kind, lambda a: measure.pick_up(a, samples, budget_s)))

    def results(self, before: tuple[float, float, float]) -> dict[str, Any]:
        return {
            "machine": machine(self.work),
            "load_before": before,
            "load_after": os.getloadavg(),
            "busy_shares": sorted(round(s, 3) for s in self.load.shares),
            "repeats": self.repeats,
            "depths": self.depths,
            "slots": SLOTS,
            "peers": [{"name": a.name, "sync": a.sync, "durability": a.durability, "waits": a.waits} for a in self.adapters],
            "skipped": self.skipped,
            "cells": self.cells,
            "capped": sorted(self.capped),
            "words": self.words,
        }


def run(work: str, *, quick: bool, repeats: int, only: list[str], out: str | None, say: Say) -> None:
    """Measure, print the tables, and write them with the picture and the raw figures into ``out``."""
    before = os.getloadavg()
    session = Run(work, quick=quick, repeats=repeats, only=only, say=say)
    for name, reason in session.skipped.items():
        say(f"SKIPPED {name}: {reason}")
    try:
        for number in range(session.repeats):
            session.repeat(number)
    finally:
        for adapter in session.backlogs.values():
            adapter.stop()
    results = session.results(before)
    text = render(results)
    print(text)
    if out:
        os.makedirs(out, exist_ok=True)
        for name, content in (("md", text), ("svg", picture(results)), ("json", json.dumps(results, indent=1) + "\n")):
            with open(f"{out}/queue.{name}", "w", encoding="utf-8") as file:
                file.write(content)
        say(f"wrote {out}/queue.md, queue.svg, queue.json")
