"""A whole swarm whose cards are in other machines, under bad luck of those machines, of the way to them, and of its own."""

from __future__ import annotations

import functools
import heapq
import itertools
import random
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable

import msgspec

from swarm.core.worker import ProcessIdentity
from swarm.proc import identity as identities
from swarm.proc.env_markers import ROOT_MARKER, find_marked
from swarm.queue.file_queue import FileQueue
from swarm.queue.stores.node_book import wish_drain
from tests.endurance.process_killer import pick, shoot, victims
from tests.helpers.kept_supervisor import END_S, KeptSupervisor
from tests.helpers.node_plan import NodeEvent, NodePlan, plan_events
from tests.helpers.node_times import Ran, Struck, again_s, back_s, began_between, broken_off, busy_share, ran
from tests.helpers.storm_ledger import WAVES, StormLedger
from tests.helpers.storm_nodes import StormNodes
from tests.helpers.stormplan import Report
from tests.helpers.wait import wait_until

LONGEST_S = 60.0
"""How long a node may take to be drained, or to end its processes."""
VICTIM_S = 60.0
"""So long a process that is to be killed is waited for."""
FIRST_S = 240.0
"""How long all nodes may take to start and to end a first task."""


class NodeReport(msgspec.Struct, kw_only=True):
    """What came of it. ``violations`` must be empty."""

    ledger: Report
    struck: list[Struck] = msgspec.field(default_factory=list)
    again_s: dict[str, list[float]] = msgspec.field(default_factory=dict)
    """By kind of event: after how long each task that it ended ran again."""
    suspects_s: list[float] = msgspec.field(default_factory=list)
    """The same of tasks that may have ended their server themselves: they wait behind all others."""
    back_s: dict[str, list[float]] = msgspec.field(default_factory=dict)
    """By kind of event: after how long the node worked again once its trouble was over."""
    busy_share: float = 0.0
    findings: list[str] = msgspec.field(default_factory=list)
    """What is wrong beside the counts of the ledger."""
    took_s: float = 0.0

    @property
    def violations(self) -> list[str]:
        """In words."""
        ledger = self.ledger
        counts = {
            "lost": ledger.lost,
            "recorded twice": ledger.recorded_twice,
            "records changed afterwards": ledger.changed_records,
            "stuck": ledger.stuck,
            "failed": ledger.failed,
            "ended without result or reason": ledger.without_reason,
        }
        return [f"{name}: {count}" for name, count in counts.items() if count] + list(ledger.fsck_violations) + self.findings


class NodeStorm:
    """One run: ``blow`` does it all. ``say`` is told of the progress."""

    def __init__(self, plan: NodePlan, make: Callable[[str], StormNodes], config: str, say: Callable[[str], None]) -> None:
        """``make`` is given a folder and makes the machines; ``config`` is that of the swarm, but for its workers."""
        self._plan = plan
        self._say = say
        self._dice = random.Random(f"victims {plan.seed}")
        self.home = tempfile.mkdtemp(prefix="swarm-nodes-")
        self.root = f"{self.home}/queue"
        self._queue = FileQueue(self.root).prepare()
        self._report = NodeReport(ledger=Report(tasks=plan.tasks))
        self._ledger = StormLedger(self._queue, self._report.ledger)
        self._nodes = make(self.home)
        with open(f"{self.home}/config.toml", "w", encoding="utf-8") as file:
            file.write(config + self._nodes.config)
        self._swarm = KeptSupervisor(self.home, self.root, *self._nodes.words, through=self._nodes.near)
        self._there: set[str] = set(self._nodes.names[:-1])
        """Nodes that are to be up."""
        self._ends: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._in_trouble: set[str] = set()
        self._drained: list[tuple[Struck, float]] = []
        """Each with the moment from which on it had to take nothing."""

    def blow(self) -> NodeReport:
        """Submit, strike, wait, count."""
        began_s = time.monotonic()
        wave_s = min(2.0, self._plan.span_s / WAVES / 2)
        submitter = threading.Thread(
            target=self._ledger.submit, args=(random.Random(f"tasks {self._plan.seed}"),), kwargs={"wave_s": wave_s}
        )
        try:
            self._nodes.start()
            self._swarm.keep_up()
            submitter.start()
            self._strike_all()
            submitter.join()
            self._ledger.wait(self._keep_up)
            self._end()
            self._count()
        finally:
            self._swarm.kill_all()
            self._nodes.close()
        self._report.took_s = time.monotonic() - began_s
        return self._report

    def forget(self) -> None:
        """Remove all that it left: there is nothing to look into."""
        shutil.rmtree(self.home)

    # -- bad luck ----------------------------------------------------------------------------------------------------

    def _strike_all(self) -> None:
        wait_until(self._works, what="the first task ends", poll_s=0.1, timeout_s=FIRST_S)
        self._say("works")
        self._report.findings += self._nodes.check()
        shift_s = time.monotonic()
        events = plan_events(self._plan)
        for number, event in enumerate(events, 1):
            self._pass_time(functools.partial(self._due, event, shift_s))
            self._strike(event)
            if number % 10 == 0:
                self._ledger.note_records()
                self._say(
                    f"-- {number} of {len(events)} events, {len(self._ledger.ids)} submitted, {self._ledger.left()} left"
                )
            if number == len(events) // 2:
                self._ledger.check_meanwhile()
        self._pass_time(lambda: not self._ends)

    def _works(self) -> bool:
        self._keep_up()
        return self._ledger.left() < len(self._ledger.ids)

    def _pass_time(self, done: Callable[[], bool]) -> None:
        while not done():
            while self._ends and self._ends[0][0] <= time.monotonic():
                heapq.heappop(self._ends)[2]()
            self._keep_up()
            time.sleep(0.05)

    def _keep_up(self) -> None:
        self._swarm.keep_up()
        for node in self._there - self._in_trouble:
            self._nodes.keep_up(node)

    def _due(self, event: NodeEvent, shift_s: float) -> bool:
        free = event.node is None or self._nodes.names[event.node] not in self._in_trouble
        return free and time.monotonic() >= shift_s + event.at_s

    def _strike(self, event: NodeEvent) -> None:
        """Do it; what lasts is ended by ``_pass_time``."""
        now_s = time.time()
        if event.kind == "head":
            self._nodes.restart_head()
            every = frozenset(worker for node in self._there for worker in self._nodes.workers(node, self._plan.cards))
            self._report.struck.append(Struck(kind="head", workers=every, at_s=now_s, over_s=time.time()))
            hit = True
        elif event.node is None:
            hit = self._met(lambda: self._strike_here(event.kind))
        else:
            node = self._nodes.names[event.node]
            workers = self._nodes.workers(node, self._plan.cards)
            hit = self._strike_node(
                event, node, struck := Struck(kind=event.kind, workers=workers, at_s=now_s, over_s=now_s)
            )
            if hit:
                self._report.struck.append(struck)
        if hit:
            self._report.ledger.shots[event.kind] += 1
        self._say(
            " ".join(
                [event.kind, *([] if event.node is None else [self._nodes.names[event.node]]), *([] if hit else ["(none)"])]
            )
        )

    def _strike_here(self, kind: str) -> bool:
        if kind == "supervisor":
            self._swarm.kill()
            return True
        return shoot(self.root, {"driver": "ray"}.get(kind, kind), self._dice)

    def _strike_node(self, event: NodeEvent, node: str, struck: Struck) -> bool:
        if event.kind == "worker":
            return self._met(lambda: self._shoot_worker(struck))
        if event.kind == "add":
            self._nodes.add(node)
            self._there.add(node)
            return True
        begin: Callable[[], object] | None = {
            "freeze": self._nodes.processes(node).freeze,
            "cut": lambda: self._nodes.cut(node),
            "drain": lambda: self._drain(node, struck),
        }.get(event.kind)
        if begin is not None:
            begin()
        elif not self._met(lambda: self._nodes.shoot(event.kind, node, self._dice)):
            return False
        if event.lasts_s:
            self._in_trouble.add(node)
            over = time.monotonic() + event.lasts_s
            heapq.heappush(self._ends, (over, next(self._numbers), lambda: self._over(event.kind, node, struck)))
        return True

    def _met(self, shoot: Callable[[], bool]) -> bool:
        """Whether there is a victim: one that is being started is waited for."""
        give_up_s = time.monotonic() + VICTIM_S
        hit = False

        def tried() -> bool:
            nonlocal hit
            hit = shoot()
            return hit or time.monotonic() > give_up_s

        self._pass_time(tried)
        return hit

    def _over(self, kind: str, node: str, struck: Struck) -> None:
        if kind == "freeze":
            self._nodes.processes(node).thaw()
        elif kind == "cut":
            self._nodes.mend(node)
        elif kind == "drain":
            wish_drain(self._queue.layout, self._queue.storage, node, drain=False)
        else:
            self._nodes.keep_up(node)
        self._in_trouble.discard(node)
        struck.over_s = time.time()

    def _shoot_worker(self, struck: Struck) -> bool:
        found = {who: name for who, name in victims(self.root, "worker").items() if name in struck.workers}
        if not found:
            return False
        victim = pick(found, self._dice)
        struck.workers = frozenset({found[victim]})
        return identities.signal(victim, signal.SIGKILL)

    def _drain(self, node: str, struck: Struck) -> None:
        wish_drain(self._queue.layout, self._queue.storage, node, drain=True)
        give_up_s = time.monotonic() + LONGEST_S
        self._in_trouble.add(node)
        self._pass_time(lambda: self._is_drained(struck) or time.monotonic() > give_up_s)
        if not self._is_drained(struck):
            self._report.findings.append(f"{node} is not drained after {LONGEST_S:.0f} s")
        self._drained.append((struck, time.time()))

    def _is_drained(self, struck: Struck) -> bool:
        """Its workers have ended."""
        return not struck.workers & set(victims(self.root, "worker").values())

    # -- the end -----------------------------------------------------------------------------------------------------

    def _end(self) -> None:
        self._swarm.keep_up()
        if not self._swarm.end():
            self._report.findings.append(f"the supervisor did not end within {END_S:.0f} s")
        self._none_left("here", lambda: find_marked(**{ROOT_MARKER: self.root}))
        self._nodes.end()
        for node in self._there:
            self._none_left(node, functools.partial(self._nodes.strays, node))

    def _none_left(self, where: str, look: Callable[[], list[ProcessIdentity]]) -> None:
        try:
            wait_until(lambda: not look(), what="no process is left", timeout_s=LONGEST_S, poll_s=0.1)
        except AssertionError:
            named = [f"{one.pid} {' '.join(identities.command_line(one))[:200]}" for one in look()]
            self._report.findings += [f"left over {where}: {name}" for name in named]

    def _count(self) -> None:
        report, plan = self._report, self._plan
        tasks = [ran(document) for document in self._ledger.count()]
        attempts = [one for task in tasks for one in task]
        for event, seconds in zip(report.struck, again_s(report.struck, tasks), strict=True):
            report.again_s.setdefault(event.kind, []).extend(seconds)
        for seconds in again_s(report.struck, tasks, suspects=True):
            report.suspects_s.extend(seconds)
        for event, back in zip(report.struck, back_s(report.struck, attempts), strict=True):
            if back is not None:
                report.back_s.setdefault(event.kind, []).append(back)
        for struck, since_s in self._drained:
            self._judge_drain(struck, since_s, attempts)
        report.busy_share = busy_share(attempts, plan.nodes * plan.cards * plan.slots)

    def _judge_drain(self, struck: Struck, since_s: float, attempts: list[Ran]) -> None:
        workers = ", ".join(sorted(struck.workers))
        if taken := began_between(attempts, struck.workers, since_s, struck.over_s):
            self._report.findings.append(f"{workers} took {taken} tasks while drained")
        if broken := broken_off(attempts, struck.workers, struck.at_s):
            self._report.findings.append(f"{workers}: {broken} tasks were broken off by draining")
