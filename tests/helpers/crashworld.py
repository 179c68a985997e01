"""Small worlds for crash tests: what is done, what was said to be done, and the judge who compares it with the disk."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from swarm.core.task import Attempt, TaskError, TaskState, Trail
from swarm.errors import QueueError
from swarm.queue.batches.batch_book import Manifest
from swarm.queue.coordination import ProcessLock
from swarm.queue.file_queue import FileQueue
from swarm.queue.fsck import fsck
from swarm.queue.fsck import leftovers as fsckleft
from swarm.queue.fsck.rules import FsckFinding
from swarm.queue.stores import registry
from tests.helpers.queues import LANE, claim_one, finish_one, llm, prepared, whereabouts

WORKER = "w"
MAY_REMAIN = {"temporary", "staging", "no-status", "no-reason", "cancel-mark"}
"""What a death may leave for ``fsck`` to clear; anything else is a violation."""
_SAID = os.write


def spare_rule(attempts: tuple[Attempt, ...]) -> float | None:
    """Crashes are forgiven twice."""
    return None if sum(a.outcome == "crashed" for a in attempts) >= 3 else 0.0


class World:
    """One queue root, and the ledger of what was said, which survives the death of whoever said it."""

    def __init__(self, durability: str = "full") -> None:
        home = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        self.home = tempfile.mkdtemp(prefix="swarm-crash-", dir=home)
        self.root = f"{self.home}/queue"
        self.durability = durability
        self._ledger = os.open(f"{self.home}/said", os.O_RDWR | os.O_CREAT | os.O_APPEND)
        self.setup: Any = None

    def open(self) -> FileQueue:
        """A queue as a process sees it that starts now."""
        return FileQueue(self.root, self.durability)

    def say(self, what: str, *facts: Any) -> None:
        """From here on it must be true."""
        _SAID(self._ledger, (json.dumps([what, *facts]) + "\n").encode())

    def said(self) -> list[list[Any]]:
        """All that was said."""
        with open(f"{self.home}/said", encoding="utf-8") as file:
            return [json.loads(line) for line in file]

    def forget_all_but(self, count: int) -> None:
        """Back to the first facts: the same world is looked at again in another state."""
        with open(f"{self.home}/said", "rb+") as file:
            lines = file.readlines()
            file.truncate(sum(map(len, lines[:count])))

    def close(self) -> None:
        """Away with it."""
        os.close(self._ledger)
        shutil.rmtree(self.home)


@contextmanager
def world(scenario: Scenario | None = None) -> Iterator[World]:
    """A prepared world; gone afterwards."""
    one = World()
    try:
        prepared(one.root, one.durability)
        if scenario is not None:
            one.setup = scenario.prepare(one)
        yield one
    finally:
        one.close()


class Scenario(NamedTuple):
    """An operation: what is there before, and what is done (and said) then."""

    name: str
    prepare: Callable[[World], Any]
    act: Callable[[World], None]
    again: bool = False
    """Asked for again after a death it comes to its end, and says then what it says."""


def alive(one: World, act: Callable[[FileQueue], None]) -> None:
    """Do it as the worker, its life lock held."""
    queue = one.open()
    lock = ProcessLock(queue.layout, WORKER)
    lock.acquire()
    try:
        act(queue)
    finally:
        lock.release()


def recover(one: World) -> None:
    """What the brain does when it starts and in its first turns."""
    queue = one.open().prepare()
    brain = queue.brain_view(spare_rule)
    for name in os.listdir(queue.layout.processing):
        assert brain.recover(name) is not None, f"the lock of the dead {name} is held"
    fsck.recover_root(queue.layout, queue.storage)
    for entry in brain.look().drop_ins:
        brain.file_drop_in(entry.file_name)


MoreFacts = Callable[[World, dict[str, list[TaskState]], str, list[Any]], bool]


def judge(one: World, more: MoreFacts = lambda *_: False) -> None:
    """Nothing accepted is lost, nothing is doubled, nothing half is visible, nothing is left over, work goes on."""
    queue = one.open()
    findings = _look(queue)
    strange = [f for f in findings if f.kind not in MAY_REMAIN]
    assert not strange, strange
    fsck.repair(queue.layout, queue.storage, findings)
    assert _look(queue) == ()
    places = whereabouts(queue)
    assert all(len(states) == 1 for states in places.values()), places
    for what, *facts in one.said():
        if not more(one, places, what, facts):
            _check(queue, places, what, facts)
    _check_sessions(queue)
    _drain(one)


def _look(queue: FileQueue) -> tuple[FsckFinding, ...]:
    """What fsck finds; a note torn in ``blocked`` is written again when the brain goes on with that task."""
    findings = fsck.look(queue.layout, agree_s=0)
    return tuple(f for f in findings if f.kind != "torn-history" or "/blocked/" not in f.path)


def _check_sessions(queue: FileQueue) -> None:
    """At most one task of a session is let go: none is on turn while another waits in its lane or runs."""
    going = [queue.read(i.task_id) for s in (TaskState.PENDING, TaskState.PROCESSING) for i in queue.list(s)]
    sessions = {d.get("session"): d["task_id"] for d in going if d.get("session")}
    for view in queue.brain_view(spare_rule).look().blocked:
        session = queue.read(view.task_id).get("session")
        assert not (view.session_turn and session in sessions), f"{view.task_id} is on turn beside {sessions[session]}"


def _check(queue: FileQueue, places: dict[str, list[TaskState]], what: str, facts: list[Any]) -> None:
    match what:
        case "accepted":
            assert facts[0] in places, f"lost: {facts[0]}"
        case "claimed":
            document = queue.read(facts[0])
            seen = max([document.get("attempt", 0), *(a["attempt"] for a in document.get("attempts", []))])
            assert document["state"] in ("completed", "failed", "cancelled") or seen >= facts[1], (
                "the attempt is not counted"
            )
            crashes = [a for a in document.get("attempts", []) if a["outcome"] == "crashed"]
            assert len(crashes) <= 1, f"one death was counted {len(crashes)} times"
        case "ended":
            document = queue.read(facts[0])
            assert (document["state"], document.get("status")) == (facts[1], facts[1]), document
            assert facts[2] is None or document["result"] == facts[2], "the result is not what was recorded"
        case "registered":
            row = registry.read_row(queue.layout, WORKER)
            assert row is not None
            assert row.epoch >= facts[0]
        case "batch":
            manifest = queue.batches().manifest(facts[0])
            assert manifest.submitted
            assert len(list(queue.batches().task_ids(facts[0]))) == manifest.items == facts[1]
            assert all(i in places for i in queue.batches().task_ids(facts[0]))
        case _:
            raise AssertionError(f"nobody judges {what}")


def _drain(one: World) -> None:
    """Whatever waits can be claimed and finished by the next life, and each exactly once."""

    def work(queue: FileQueue) -> None:
        brain = queue.brain_view(spare_rule)
        for view in brain.look().blocked:
            brain.release_blocked(view.task_id, view.attempt)
        worker = queue.worker_view(WORKER)
        for lane in os.listdir(queue.layout.pending):
            while (claim := claim_one(worker, [lane])) is not None:
                assert finish_one(worker, claim, TaskState.COMPLETED, DONE)

    alive(one, work)
    states = whereabouts(one.open())
    assert all(s[0] in (TaskState.COMPLETED, TaskState.FAILED, TaskState.CANCELLED) for s in states.values()), states


def same_again(one: World, act: Callable[[World], None]) -> None:
    """The same operation after the trouble is over: it succeeds, or it was done already and says so."""
    try:
        act(one)
    except QueueError as exc:
        assert any(word in exc.message for word in ("already", "only failed and cancelled", "no task")), exc


@contextmanager
def impatient() -> Iterator[None]:
    """``fsck`` does not wait for leftovers to age."""
    age_s, fsckleft.STAGING_AGE_S = fsckleft.STAGING_AGE_S, -1.0
    try:
        yield
    finally:
        fsckleft.STAGING_AGE_S = age_s


DONE = Trail(result={"message": {"content": "hi"}})
LONG = Attempt(attempt=1, worker=WORKER, outcome="retried", fault="transient", error=TaskError("busy", "x" * 300))
MANIFEST = Manifest(batch_id="b1", source="in.jsonl", format="jsonl", created_at="2026-01-01T00:00:00.000+00:00")

__all__ = [
    "DONE",
    "LANE",
    "LONG",
    "MANIFEST",
    "WORKER",
    "Scenario",
    "World",
    "alive",
    "impatient",
    "judge",
    "llm",
    "recover",
    "same_again",
    "spare_rule",
    "world",
]
