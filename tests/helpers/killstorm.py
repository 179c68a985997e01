"""A swarm on simulated cards under fire: random kills and pauses, and an independent ledger that counts what came of it."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from swarm.core.task import TERMINAL, TaskState
from swarm.core.worker import ProcessIdentity
from swarm.proc import identity as identities
from swarm.proc.env_markers import ROOT_MARKER, find_marked
from swarm.proc.ports import free_port
from swarm.queue.batches.batch_watch import BatchWatch
from swarm.queue.coordination import is_held
from swarm.queue.file_queue import FileQueue
from swarm.queue.fsck import fsck
from tests.endurance.process_killer import pick, victims
from tests.helpers.crashworld import MAY_REMAIN
from tests.helpers.kept_supervisor import KeptSupervisor
from tests.helpers.queues import llm
from tests.helpers.stormplan import CONFIG, MODELS, STUCK_S, TARGETS, Plan, Report


class Storm:
    """One run: ``blow`` does it all. ``say`` is told of the progress."""

    def __init__(self, plan: Plan, say: Callable[[str], None]) -> None:
        self._plan = plan
        self._say = say
        self._dice = random.Random(plan.seed)
        self.home = tempfile.mkdtemp(prefix="swarm-storm-")
        self.root = f"{self.home}/queue"
        self._queue = FileQueue(self.root).prepare()
        self._report = Report(tasks=plan.tasks)
        words = ("--simulate", str(plan.workers))
        self._swarm = KeptSupervisor(self.home, self.root, *words, SWARM_SIM_LEDGER=f"{self.home}/executed")
        self._ids: list[str] = []
        self._records: dict[str, tuple[int, int, int]] = {}
        with open(f"{self.home}/config.toml", "w", encoding="utf-8") as file:
            file.write(CONFIG.format(port=free_port(), request_s=plan.request_s, slots=plan.slots, engine=plan.engine))

    def blow(self) -> Report:
        """Submit, shoot, wait, count."""
        began_s = time.monotonic()
        submitter = threading.Thread(target=self._submit)
        try:
            self._swarm.keep_up()
            submitter.start()
            self._shoot()
            submitter.join()
            self._wait()
            self._end()
            self._count()
        finally:
            self._swarm.kill_all()
        self._report.took_s = time.monotonic() - began_s
        if not self._report.violations:
            shutil.rmtree(self.home)
        return self._report

    def _submit(self) -> None:
        """In waves, so that submitting and dying mix."""
        plan, waves = self._plan, 20
        for wave in range(waves):
            size = plan.tasks * (wave + 1) // waves - plan.tasks * wave // waves
            ids = [self._queue.new_id() for _ in range(size)]
            documents = [llm(f"task {i}", task_id=i, model=self._dice.choice(MODELS)) for i in ids]
            accepted = max(self._queue.enqueue_many(documents), default=0)
            self._ids.extend(ids[:accepted])
            time.sleep(min(2.0, plan.kills * plan.every_s / waves / 2))

    def _shoot(self) -> None:
        shots = 0
        while shots < self._plan.kills:
            time.sleep(self._dice.expovariate(1 / self._plan.every_s))
            self._swarm.keep_up()
            target = self._dice.choice(TARGETS)
            hit = self._fire(target)
            if hit:
                shots += 1
                self._report.shots[target] += 1
                if shots % 100 == 0 or shots == self._plan.kills // 2:
                    self._check_meanwhile()
                if shots % 25 == 0:
                    self._note_records()
                    self._say(f"{shots} of {self._plan.kills} shots, {len(self._ids)} submitted, {self._left()} left")

    def _check_meanwhile(self) -> None:
        """``fsck --repair`` in the middle of it all finds nothing wrong and does no harm."""
        findings = fsck.look(self._queue.layout)
        wrong = [f for f in findings if f.kind not in MAY_REMAIN | {"abandoned"}]
        self._report.fsck_violations += tuple(f"under fire: {f.kind}: {f.path}: {f.what}" for f in wrong)
        self._report.fsck_cleared += len(fsck.repair(self._queue.layout, self._queue.storage, findings))

    def _fire(self, target: str) -> bool:
        if target == "supervisor":
            self._swarm.kill()
            return True
        found = victims(self.root, target)
        if not found:
            return False
        victim = pick(found, self._dice)
        if target == "pause":
            return self._pause(victim)
        if target == "worker":
            return self._kill_worker(victim, found[victim])
        return identities.signal(victim, signal.SIGKILL)

    def _pause(self, victim: ProcessIdentity) -> bool:
        """A zombie: stopped for shorter or longer than the brain's patience, then woken."""
        if not identities.signal(victim, signal.SIGSTOP):
            return False
        timer = threading.Timer(self._dice.choice((0.5, 6.0)), identities.signal, (victim, signal.SIGCONT))
        timer.daemon = True
        timer.start()
        return True

    def _kill_worker(self, victim: ProcessIdentity, name: str) -> bool:
        held_by = self._queue.layout.held_by(name)
        brain = self._brain()
        held = {f"{held_by}/{n}": _inode(f"{held_by}/{n}") for n in _names(held_by)}
        began_s = time.monotonic()
        if not identities.signal(victim, signal.SIGKILL):
            return False
        held = {path: inode for path, inode in held.items() if inode is not None}
        while any(_inode(path) == inode for path, inode in held.items()) and time.monotonic() - began_s < 5.0:
            time.sleep(0.002)
        if held and brain is not None and self._brain() == brain:
            self._report.claimable_s.append(time.monotonic() - began_s)
        return True

    def _brain(self) -> ProcessIdentity | None:
        """The brain that works: alive, its lock held."""
        found = victims(self.root, "brain")
        return next(iter(found), None) if is_held(self._queue.layout, "brain") else None

    def _left(self) -> int:
        return BatchWatch(self._queue.layout, list(self._ids)).look().left

    def _wait(self) -> None:
        """Until all have ended, or nothing moves any more."""
        watch = BatchWatch(self._queue.layout, self._ids)
        left, moved_s = len(self._ids), time.monotonic()
        while (now := watch.look().left) and time.monotonic() - moved_s < STUCK_S:
            if now != left:
                left, moved_s = now, time.monotonic()
            self._swarm.keep_up()
            time.sleep(0.1)
        self._report.stuck = watch.look().left

    def _end(self) -> None:
        self._swarm.keep_up()
        time.sleep(1.0)
        if not self._swarm.end():
            self._say("the supervisor did not end within 60 s")
        self._report.processes_left = len(find_marked(**{ROOT_MARKER: self.root}))

    def _note_records(self) -> None:
        """Records seen once must stay as they are."""
        for path in self._terminal():
            seen = os.stat(path)
            now = (seen.st_ino, seen.st_mtime_ns, seen.st_size)
            if self._records.setdefault(path, now) != now:
                self._report.changed_records += 1

    def _terminal(self) -> Iterator[str]:
        for state in (TaskState.COMPLETED, TaskState.FAILED):
            for located in self._queue.list(state):
                yield located.path

    def _count(self) -> None:
        report = self._report
        self._note_records()
        places: Counter[str] = Counter()
        for state in TaskState:
            if state is not TaskState.CORRUPT:
                places.update(located.task_id for located in self._queue.list(state))
        report.lost = sum(1 for i in self._ids if not places[i])
        report.recorded_twice = sum(1 for i in self._ids if places[i] > 1)
        for task_id in self._ids:
            if places[task_id] == 1:
                self._judge(self._queue.read(task_id))
        report.executions = len(self._executed())
        findings = fsck.look(self._queue.layout)
        wrong = [f for f in findings if f.kind not in MAY_REMAIN]
        report.fsck_violations += tuple(f"{f.kind}: {f.path}: {f.what}" for f in wrong)
        report.fsck_cleared += len(fsck.repair(self._queue.layout, self._queue.storage, findings))

    def _judge(self, document: dict[str, Any]) -> None:
        if document["state"] not in TERMINAL:
            return  # counted as stuck
        ends = [a for a in document["attempts"] if a["outcome"] in ("completed", "failed")]
        if document["state"] == TaskState.COMPLETED:
            self._report.completed += 1
            self._report.recorded_twice += len(ends) != 1
            self._report.without_reason += not document.get("result")
        else:
            self._report.failed += 1
            self._report.without_reason += not document.get("error")

    def _executed(self) -> list[str]:
        """Requests for our tasks, by the servers' own books; a line torn by a kill is passed over."""
        mine, found = set(self._ids), []
        try:
            with open(f"{self.home}/executed", encoding="utf-8", errors="replace") as file:
                for line in file:
                    try:
                        found.append(json.loads(line).get("task"))
                    except ValueError:
                        continue
        except FileNotFoundError:
            return []
        return [task_id for task_id in found if task_id in mine]


def _names(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return []


def _inode(path: str) -> int | None:
    try:
        return os.stat(path).st_ino
    except FileNotFoundError:
        return None
