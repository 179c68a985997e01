"""A supervisor in a thread of the test, over little stand-ins for its processes; model servers are simulated ones."""

from __future__ import annotations

import sys
import threading
from contextlib import ExitStack
from pathlib import Path

import msgspec

from swarm.config.settings import QueueSettings, Settings, SupervisorSettings
from swarm.core.placement.worker_plan import WorkerPlan
from swarm.runtime.bootstrap import RunOptions, living, own_row
from swarm.supervisor.main import make_supervisor
from swarm.supervisor.state import ChildState, ChildStatus
from tests.helpers.queues import prepared
from tests.helpers.wait import wait_until

CHILD = """
import json, os, signal, sys, time
from filelock import FileLock
root, name, mode = sys.argv[1:4]
from swarm.proc.identity import current
import msgspec
asked = []
signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
signal.signal(signal.SIGINT, lambda *_: asked.append(1))
lock = FileLock(f"{root}/workers/{name}.lock")
lock.acquire(timeout=60)
plan = {p["name"]: p for p in json.load(open(f"{root}/workers/supervisor.plan.json"))}.get(name, {})
row = dict(name=name, process=msgspec.to_builtins(current()), started_at="x", epoch=1,
           url="auto" if name == "ray" else plan.get("url"), gpu_uuids=plan.get("gpu_uuids", []),
           node=plan.get("relay", {}).get("node", ""))
open(f"{root}/workers/{name}.tmp", "w").write(json.dumps(row))
os.rename(f"{root}/workers/{name}.tmp", f"{root}/workers/{name}.json")
open(f"{root}/lives", "a").write(f"{name} {os.getpid()}\\n")
if mode == "crash": sys.exit(3)
if mode == "orphan" and os.fork() == 0:
    os.setsid(); signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60); os._exit(0)
while not asked: time.sleep(0.01)
if mode == "busy":
    while len(asked) < 2 and not os.path.exists(f"{root}/done"): time.sleep(0.01)
if mode == "steady":
    while not os.path.exists(f"{root}/done"): time.sleep(0.01)
open(f"{root}/ends", "a").write(f"{name} {len(asked)}\\n")
"""
FAST = SupervisorSettings(restart_base_s=0.05, restart_cap_s=0.2)


class Swarm:
    """A supervisor run by a thread of its own, over little stand-ins for brain and workers."""

    def __init__(self, root: Path, plans: tuple[WorkerPlan, ...], settings: Settings, mode: str, drain_s: float, **options):
        self.root = root
        self.plans = plans
        self.settings = msgspec.structs.replace(settings, queue=QueueSettings(root=str(root)))
        self.queue = prepared(str(root), "full")

        def argv(role: str, *words: str, options: RunOptions) -> tuple[str, ...]:
            name = words[-1] if role == "worker" else role
            return (sys.executable, "-c", CHILD, str(options.root), name, mode if role == "worker" else "plain")

        run = RunOptions(settings=self.settings)
        self.supervisor = make_supervisor(self.queue, run, plans, argv_of=argv, **options)
        self.supervisor.drain_s = drain_s
        self.crash = False
        self.turns = 0
        self._lock = ExitStack()
        self._thread = threading.Thread(target=self._run)

    def up(self) -> Swarm:
        self._lock.enter_context(living(self.queue, own_row("supervisor", "supervisor")))
        self.supervisor.start()
        self._thread.start()
        return self

    def _run(self) -> None:
        while not self.supervisor.finished and not self.crash:
            pause_s = self.supervisor.step()
            self.turns += 1
            if not self.supervisor.finished:
                self.supervisor.wait(pause_s)
        if self.crash:
            self.supervisor.abandon()
        else:
            self.supervisor.close()
        self._lock.close()

    def die(self) -> None:
        """As after a SIGKILL: the children go on."""
        self.crash = True
        self.supervisor.wake()
        self._thread.join(60)

    def join(self, timeout_s: float = 60.0) -> None:
        self._thread.join(timeout_s)
        assert not self._thread.is_alive(), self.supervisor.children

    def down(self) -> None:
        if self._thread.is_alive():
            self.supervisor.request_stop()
            self.join()

    def child(self, name: str) -> ChildStatus:
        return next(c for c in self.supervisor.children if c.name == name)

    def running(self, *names: str) -> list[int]:
        """Pids of these, once all run."""
        wanted = names or tuple(c.name for c in self.supervisor.children)

        def pids() -> list[int]:
            # One whose end was just seen has no number any more, while it is still said to run.
            found = [c.pid for n in wanted if (c := self.child(n)).state is ChildState.RUNNING and c.pid is not None]
            return found if len(found) == len(wanted) else []

        return wait_until(pids, what=f"{wanted} run")

    def lines(self, name: str) -> list[str]:
        path = self.root / name
        return path.read_text().splitlines() if path.exists() else []
