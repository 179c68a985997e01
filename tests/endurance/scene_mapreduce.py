"""Map and reduce: questions are cut into a list, each is answered, the answers are joined; the brain dies throughout."""

from __future__ import annotations

import argparse
import itertools
import json
import random
from collections import Counter
from typing import Any

from swarm.core.task import MAX_TASK_BYTES, TERMINAL, TaskState
from swarm.core.workflow.fan_out import MOST_CHILDREN
from swarm.errors import UnknownTask
from swarm.queue.lookup import Located
from tests.endurance.checks import mapped_and_joined, one_record_each, text_of
from tests.endurance.process_killer import Shooter, shoot
from tests.endurance.scene_common import MODEL, Arena, SceneReport, dice_of, size, teller, told_hits
from tests.helpers.wait import wait_until

CUT = "Cut this into its questions, as a JSON list:\n[[lines]]\n"
ANSWER = "Answer in a few words: "
JOIN = "Join these answers into one text:\n[[recite]]\n"
WORDS = (
    "apples",
    "bakes",
    "costs",
    "day",
    "each",
    "for",
    "gives",
    "half",
    "how",
    "many",
    "more",
    "per",
    "sells",
    "she",
    "takes",
)
QUESTION_CHARS = 235
SHOTS = {"mapping": 3, "answering": 5, "gathering": 2, "joining": 2}
"""At the brain, while the job is there; half of the time a worker falls with it, while the last task runs always."""
REQUEST_S = 0.1
CONTEXT = 512 * 1024
"""Tokens: the whole file is one prompt, all answers are another, and what is answered comes on top."""
FULL = {"llama-server": 900}
"""Questions, where an engine gives no model a longer context than it was trained for: 128 Ki tokens."""
VRAM_MIB = 800_000
"""Of each simulated card: a model with such a context is large."""


def add_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--input", metavar="FILE", help="JSON lines with the questions; by default they are made up")
    group.add_argument("--prompt-field", default="question", metavar="NAME")
    group.add_argument(
        "--questions", type=int, help=f"at most so many, at most {MOST_CHILDREN} (1319, with llama-server 900; quick 120)"
    )


def scene(options: argparse.Namespace) -> SceneReport:
    """Run the three steps while shooting, read the results."""
    number = size(options.questions, options, full=FULL.get(options.engine, 1319), quick=120)
    dice = dice_of(options, "mapreduce")
    questions = _questions(options, number, dice)
    say = teller(options)
    report = SceneReport(name=f"mapreduce: {len(questions)} questions, --seed {options.seed}")
    say(report.name)
    config = f'[models."{MODEL}".options]\nnum_ctx = {CONTEXT}\n'
    env = {"SWARM_LLM__NUM_PREDICT": str(CONTEXT // 2), "SWARM_SIM_OBEY": "true", "SWARM_SIM__VRAM_MIB": str(VRAM_MIB)}
    with Arena("mapreduce", options, request_s=REQUEST_S, config=config, **env) as arena:
        steps = _steps(questions)
        with open(arena.path("steps.jsonl"), "w", encoding="utf-8") as file:
            file.writelines(json.dumps(step) + "\n" for step in steps)
        arena.up()
        arena.queue.pause("all")
        arena.swarm("submit", arena.path("steps.jsonl"), "--model", MODEL)
        job = Job(arena)
        hunter = Hunter(arena, job, dice)
        hunter.begin()
        arena.queue.resume("all")
        hunter.start()
        try:
            arena.until(job.left, say)
        finally:
            hunter.stop()
        arena.swarm("results", job.batch, "-o", arena.path("out.jsonl"))
        arena.down(report.findings)
        _judge(arena, job, questions, report)
        report.figures |= {
            "brain killed while": ", ".join(f"{phase} {count}" for phase, count in hunter.phases.items()),
            "kills": told_hits(hunter.hit),
            "largest task, bytes (limit 1 MiB)": max(len(json.dumps(step)) for step in steps),
        }
        missed = [phase for phase in SHOTS if not hunter.phases[phase]]
        if missed:
            report.figures["not hit this time"] = ", ".join(missed)
        if report.findings:
            arena.keep()
    report.took_s = say.took_s
    return report


def _questions(options: argparse.Namespace, number: int, dice: random.Random) -> list[str]:
    if options.input is None:
        return [f"Question {n}: {' '.join(dice.choices(WORDS, k=QUESTION_CHARS // 5))}?" for n in range(number)]
    with open(options.input, encoding="utf-8") as file:
        texts = [json.loads(line)[options.prompt_field] for line in itertools.islice(file, number)]
    return [" ".join(text.split()) for text in texts]


def _steps(questions: list[str]) -> list[dict[str, Any]]:
    steps = [
        {"name": "chunks", "prompt": CUT + "\n".join(questions)},
        {"name": "each", "prompt": ANSWER + "{item}", "map": {"over": "chunks"}},
        {"name": "all", "prompt": JOIN + "{results.each.list}", "depends_on": ["each"]},
    ]
    largest = max(len(json.dumps(step)) for step in steps)
    if largest > MAX_TASK_BYTES:
        raise SystemExit(
            f"the questions have {largest} bytes; a task holds at most {MAX_TASK_BYTES}: take fewer --questions"
        )
    return steps


class Job:
    """The three tasks and how far they are, from the files."""

    def __init__(self, arena: Arena) -> None:
        self._queue = arena.queue
        (self.batch,) = arena.queue.batches().names()
        self.chunks, self.each, self.all = arena.queue.batches().task_ids(self.batch)

    def left(self) -> int:
        """What waits and runs; not the children before they are made. 0 only at the end: who counts may miss what moves."""
        return 0 if self.phase() == "done" else max(1, len(self._waiting()))

    def phase(self) -> str:
        """``cutting``, ``mapping``, ``answering``, ``gathering``, ``joining`` or ``done``."""
        if self._ended(self.all):
            return "done"
        if self._ended(self.each):
            return "joining"
        if not self._ended(self.chunks):
            return "cutting"
        try:
            children = self._queue.read(self.each).get("children")
        except UnknownTask:
            return "mapping"  # on the move
        if children is None or children < 0:
            return "mapping"
        return "answering" if any(_child(located, self.each) for located in self._waiting()) else "gathering"

    def _waiting(self) -> list[Located]:
        return [
            one for state in (TaskState.PENDING, TaskState.PROCESSING, TaskState.BLOCKED) for one in self._queue.list(state)
        ]

    def _ended(self, task_id: str) -> bool:
        located = self._queue.find(task_id)
        return located is not None and located.state in TERMINAL


def _child(located: Located, parent: str) -> bool:
    return located.task_id.startswith(f"{parent}-")


class Hunter(Shooter):
    """Kills the brain at random moments of each phase, and workers now and then."""

    def __init__(self, arena: Arena, job: Job, dice: random.Random) -> None:
        super().__init__(arena.root, dice, name="hunter")
        self._job = job
        self.phases: Counter[str] = Counter()

    def begin(self) -> None:
        """With the brain, before any of it runs: all that follows may be over before a shot."""
        wait_until(lambda: shoot(self._root, "brain", self._dice), what="a brain to shoot at")
        self.phases["cutting"] += 1
        self.hit["brain"] += 1

    def _run(self) -> None:
        while not self._stop.is_set():
            phase = self._job.phase()
            if phase == "done":
                return
            if self.phases[phase] < SHOTS.get(phase, 0):
                self._shoot(phase)
            self._stop.wait(0.005)

    def _shoot(self, phase: str) -> None:
        """The brain after a moment, long enough to be in the middle of what it does; shorter where it is soon over."""
        longest_s = {"answering": 1.0, "joining": 0.03}.get(phase, 0.15)
        if self._stop.wait(self._dice.uniform(0.0, longest_s)) or not shoot(self._root, "brain", self._dice):
            return
        self.phases[phase] += 1
        self.hit["brain"] += 1
        if (phase == "joining" or self._dice.random() < 0.5) and shoot(self._root, "worker", self._dice):
            self.hit["worker"] += 1


def _judge(arena: Arena, job: Job, questions: list[str], report: SceneReport) -> None:
    arena.unfinished(report.findings)
    records = [d for d in arena.records() if d.get("task_class") == "llm"]
    documents = {d["task_id"]: d for d in records}
    children = [f"{job.each}-{index}" for index in range(len(questions))]
    report.findings += one_record_each([job.chunks, job.each, job.all, *children], records)
    report.findings += mapped_and_joined(
        documents.get(job.each, {"task_id": job.each}),
        documents,
        [ANSWER + question for question in questions],
        _recited(documents.get(job.all, {})),
    )
    requests = arena.requests()
    unasked = [child for child in children if child in documents and not requests[child]]
    if unasked:
        report.findings.append(f"{len(unasked)} children have a record though no server was asked, the first: {unasked[0]}")
    with open(arena.path("out.jsonl"), encoding="utf-8") as file:
        names = [json.loads(line).get("name") for line in file]
    if names != ["chunks", "each", "all"]:
        report.findings.append(f"the output holds {names} instead of the three steps in their order")
    crashed = sum(a["outcome"] == "crashed" for d in records for a in d.get("attempts", ()))
    report.figures |= {
        "elements, each a task of its own": len(questions),
        "records": len(records),
        "answers in the joining prompt, in order": len(_recited(documents.get(job.all, {})) or ()),
        "attempts that died with their worker": crashed,
        "requests that reached a server": requests.total(),
    }


def _recited(document: dict[str, Any]) -> list[str | None] | None:
    """The simulated server says again what it was given to join: what the task really asked."""
    try:
        found = json.loads(text_of(document) or "")
    except ValueError:
        return None
    return found if isinstance(found, list) else None
