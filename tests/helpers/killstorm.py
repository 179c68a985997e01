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
from collections.abc import Callable

from swarm.core.worker import ProcessIdentity
from swarm.proc import identity as identities
from swarm.proc.env_markers import ROOT_MARKER, find_marked
from swarm.queue.coordination import is_held
from swarm.queue.file_queue import FileQueue
from tests.endurance.process_killer import pick, victims
from tests.helpers.kept_supervisor import END_S, KeptSupervisor
from tests.helpers.storm_ledger import WAVES, StormLedger
from tests.helpers.stormplan import TARGETS, Plan, Report, storm_config


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
        self._ledger = StormLedger(self._queue, self._report)
        with open(f"{self.home}/config.toml", "w", encoding="utf-8") as file:
            file.write(storm_config(request_s=plan.request_s, slots=plan.slots, engine=plan.engine))

    def blow(self) -> Report:
        """Submit, shoot, wait, count."""
        began_s = time.monotonic()
        wave_s = min(2.0, self._plan.kills * self._plan.every_s / WAVES / 2)
        submitter = threading.Thread(target=self._ledger.submit, args=(self._dice,), kwargs={"wave_s": wave_s})
        try:
            self._swarm.keep_up()
            submitter.start()
            self._shoot()
            submitter.join()
            self._ledger.wait(self._swarm.keep_up)
            self._end()
            self._ledger.count()
            self._report.executions = len(self._executed())
        finally:
            self._swarm.kill_all()
        self._report.took_s = time.monotonic() - began_s
        if not self._report.violations:
            shutil.rmtree(self.home)
        return self._report

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
                    self._ledger.check_meanwhile()
                if shots % 25 == 0:
                    self._ledger.note_records()
                    submitted = f"{len(self._ledger.ids)} submitted, {self._ledger.left()} left"
                    self._say(f"{shots} of {self._plan.kills} shots, {submitted}")

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

    def _end(self) -> None:
        self._swarm.keep_up()
        if not self._swarm.end():
            self._say(f"the supervisor did not end within {END_S:.0f} s")
        self._report.processes_left = len(find_marked(**{ROOT_MARKER: self.root}))

    def _executed(self) -> list[str]:
        """Requests for our tasks, by the servers' own books; a line torn by a kill is passed over."""
        mine, found = set(self._ledger.ids), []
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
