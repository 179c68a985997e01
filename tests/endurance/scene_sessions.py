"""Sessions: very many at once, each in order, submitted by several at a time, worked by four under random kills."""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from swarm.clock import parse_iso
from swarm.core.task import TERMINAL
from swarm.queue.batches.batch_watch import BatchWatch
from tests.endurance.checks import one_record_each, sessions_in_order
from tests.endurance.process_killer import Sniper
from tests.endurance.reporting import quantile
from tests.endurance.scene_common import MODEL, TARGETS, Arena, SceneReport, dice_of, size, teller, told_hits
from tests.endurance.scene_ticks import tick_ms

SUBMITTERS = 4
WAVES = 4
"""Each session's tasks come in so many parts, each from another submitter; a wave begins when the last is accepted."""
ALONE_STEPS = 50
CONTENDED = 10
"""Every so-manieth session gets tasks from all submitters at once: there the order is each one's own, and by wave."""


def add_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--sessions", type=int, help="how many (1000; quick 60)")
    group.add_argument("--steps", type=int, help="tasks of each (20; quick 8)")
    group.add_argument("--session-kills", type=int, help="shots at workers, servers, brain (150; quick 15)")


def scene(options: argparse.Namespace) -> SceneReport:
    """Submit in waves while shooting, wait, read the results."""
    sessions = size(options.sessions, options, full=1000, quick=60)
    steps = size(options.steps, options, full=20, quick=8)
    kills = size(options.session_kills, options, full=150, quick=15)
    say = teller(options)
    report = SceneReport(name=f"sessions: {sessions} x {steps}, {kills} kills, --seed {options.seed}")
    say(report.name)
    with Arena("sessions", options, SWARM_LLM__NUM_PREDICT="8") as arena:
        sniper = Sniper(arena.root, TARGETS, dice_of(options, "sessions"), shots=kills, every_s=0.35)
        arena.up()
        sniper.start()
        began_s = time.monotonic()
        try:
            accepted = _submit(arena, sessions, steps, say)
            watch = BatchWatch(arena.queue.layout, accepted)
            arena.until(lambda: watch.look().left, say)
        finally:
            sniper.stop()
        worked_s = time.monotonic() - began_s
        handover = _handover(arena, say)
        arena.down(report.findings)
        _judge(arena, accepted, sessions * steps, report)
        requests = arena.requests()
        report.figures |= {
            "sessions x tasks": f"{sessions} x {steps}",
            "submitters at once": SUBMITTERS,
            "accepted": len(accepted),
            "kills": told_hits(sniper.hit),
            "requests that reached a server": sum(requests[task_id] for task_id in accepted),
            "seconds, first submission to last end": round(worked_s, 1),
            "tasks a second": round(len(accepted) / worked_s, 1),
            "end of one to start of the next, ms": f"p50 {quantile(handover, 0.5):.0f}, p99 {quantile(handover, 0.99):.0f}",
        }
        if report.findings:
            arena.keep()
    for waiting in (100, size(None, options, full=10_000, quick=1000)):
        cost = ", ".join(f"{ms} ms when {what}" for what, ms in tick_ms(waiting).items())
        report.figures[f"a turn of the brain, {waiting:,} sessions"] = cost
    report.took_s = say.took_s
    return report


def _submit(arena: Arena, sessions: int, steps: int, say: Callable[[str], None]) -> list[str]:
    """All tasks, by ``swarm submit`` in several processes side by side; their ids."""
    number = 0
    for wave in range(WAVES):
        parts: list[list[dict[str, Any]]] = [[] for _ in range(SUBMITTERS)]
        for step in range(steps * wave // WAVES, steps * (wave + 1) // WAVES):
            for session in range(sessions):
                who = (step if session % CONTENDED == 0 else session + wave) % SUBMITTERS
                facts = {"submitter": who, "wave": wave, "step": step}
                parts[who].append({"prompt": f"{step} of {session}", "session": f"s{session}", "metadata": facts})
                number += 1
        with ThreadPoolExecutor(SUBMITTERS) as side_by_side:
            list(side_by_side.map(_submit_part, [arena] * SUBMITTERS, [wave] * SUBMITTERS, range(SUBMITTERS), parts))
        say(f"{number} submitted")
        if wave == WAVES // 2 - 1:
            arena.swarm("down", "--now")
            arena.up()
            say("stopped in the middle of it and started again")
    books = arena.queue.batches()
    return [task_id for name in books.names() for task_id in books.task_ids(name)]


def _submit_part(arena: Arena, wave: int, who: int, lines: list[dict[str, Any]]) -> None:
    path = arena.path(f"w{wave}-{who}.jsonl")
    with open(path, "w", encoding="utf-8") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)
    if lines:
        arena.swarm("submit", path, "--model", MODEL)


def _handover(arena: Arena, say: Callable[[str], None]) -> list[float]:
    """Milliseconds from the end of one task to the start of the next in a session that has the swarm to itself."""
    _submit_part(arena, WAVES, 0, [{"prompt": f"alone {n}", "session": "alone"} for n in range(ALONE_STEPS)])
    name = max(arena.queue.batches().names(), key=lambda batch: min(arena.queue.batches().task_ids(batch)))
    ids = list(arena.queue.batches().task_ids(name))
    watch = BatchWatch(arena.queue.layout, ids)
    arena.until(lambda: watch.look().left, say)
    attempts = [arena.queue.read(task_id)["attempts"] for task_id in ids]
    pairs = itertools.pairwise(attempts)
    return [1000 * (parse_iso(later[0]["started_at"]) - parse_iso(earlier[-1]["ended_at"])) for earlier, later in pairs]


def _judge(arena: Arena, accepted: list[str], wanted: int, report: SceneReport) -> None:
    arena.unfinished(report.findings)
    documents = [d for d in arena.records() if d.get("session", "alone") != "alone"]
    if len(set(accepted)) != wanted:
        report.findings.append(f"{len(set(accepted))} tasks were accepted instead of {wanted}")
    report.findings += one_record_each(accepted, documents)
    report.findings += sessions_in_order(documents, by_wave, by_submitter)
    attempts = [a for d in documents for a in d.get("attempts", ())]
    report.figures["records"] = sum(1 for d in documents if d["state"] in set(map(str, TERMINAL)))
    report.figures["attempts"] = len(attempts)
    report.figures["attempts that died with their worker"] = sum(a["outcome"] == "crashed" for a in attempts)


def by_wave(document: dict[str, Any]) -> tuple[Any, Any]:
    """What was submitted after another submission had ended runs after it."""
    return document["session"], document["metadata"]["wave"]


def by_submitter(document: dict[str, Any]) -> tuple[Any, Any]:
    """What one submitter submitted runs in the order of its lines."""
    return (document["session"], document["metadata"]["submitter"]), document["metadata"]["step"]
