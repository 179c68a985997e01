"""Keeps brain, model servers, workers, HTTP server and Ray driver running, and ends them in order.

One tick: note what was asked -> let each child take a step (servers before workers, so that a worker starts in the tick
its server got ready) -> move the end on by one rank when the rank before it has ended -> publish what changed.
The end goes by rank: the HTTP server takes no more requests and ends those that run, then workers finish their tasks, then
servers (the Ray driver those of other machines), then the brain, which may still reclaim and record.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

from swarm.core.placement.worker_plan import WorkerPlan
from swarm.core.worker import ProcessIdentity
from swarm.proc import identity as identities
from swarm.runtime.logging import LogOnce
from swarm.runtime.ports import Clock
from swarm.supervisor import restarts
from swarm.supervisor.keeper import IDLE_S, Keeper, Waker
from swarm.supervisor.state import ChildState, ChildStatus, SupervisorStatus, remove_plan, save_plan, save_status
from swarm.supervisor.what_runs import end_model_servers, end_strangers, find_leftovers
from swarm.supervisor.worker_keepers import WorkerKeepers

log = logging.getLogger(__name__)


class Supervisor:
    """Fits ``loop.Actor``; one per queue root, under its process lock. ``start`` first, then ``step`` and ``wait``.

    ``request_drain``, ``request_stop`` and ``wake`` may be called from signal handlers and other threads.
    """

    title = "Supervisor"

    def __init__(
        self,
        root: Path,
        clock: Clock,
        waker: Waker,
        *,
        brain: Keeper,
        servers: tuple[Keeper, ...],
        workers: WorkerKeepers,
        http: tuple[Keeper, ...] = (),
        ray: tuple[Keeper, ...] = (),
        drain_s: float,
        parent: ProcessIdentity | None = None,
        root_trouble: Callable[[], str] = lambda: "",
        tidy: Callable[[], None] = lambda: None,
    ) -> None:
        """``root_trouble``: why the root is no longer the directory it was; then all is ended, and nothing written there.

        ``tidy`` removes what is of no use once no process is left.
        """
        self.drain_s = drain_s
        """Workers that have not finished their tasks by then are stopped: just above the longest a task may take."""
        self.finished = False
        self.lost = False
        """Another directory lies where the queue root was."""
        self.leftovers: tuple[str, ...] = ()
        self._brain, self._servers, self._workers = brain, servers, workers
        self._http = http
        self._ray = ray
        self._root = root
        self._clock = clock
        self._waker = waker
        self._tidy = tidy
        self._parent = parent
        self._parent_fd = identities.open_pidfd(parent) if parent is not None else None
        self._drain_asked = self._stop_asked = False
        self._root_trouble = root_trouble
        self._drain_until_s: float | None = None
        self._started_at = clock.iso()
        self._published: tuple[str, tuple[ChildStatus, ...]] | None = None
        self._unsaved = False
        self._troubles = LogOnce(log)

    @property
    def phase(self) -> str:
        """``running``, ``draining``, ``stopping`` or ``ended``."""
        if self.finished:
            return "ended"
        return "stopping" if self._stop_asked else "draining" if self._drain_asked else "running"

    @property
    def plans(self) -> tuple[WorkerPlan, ...]:
        """Of the workers that are kept now: those of nodes come and go."""
        return self._workers.plans

    @property
    def _keepers(self) -> tuple[Keeper, ...]:
        return (self._brain, *self._servers, *self._ray, *self._workers.keepers, *self._http)

    @property
    def children(self) -> tuple[ChildStatus, ...]:
        """How all of them are: brain, servers, Ray driver, workers, HTTP server."""
        return tuple(k.status for k in self._keepers)

    def start(self) -> None:
        """Publish the plan, end what an earlier, different plan left running. Raises ``StorageFault``, ``OSError``."""
        restarts.forget(self._root)
        self._workers.follow()
        save_plan(self._root / "workers", self.plans)
        end_strangers(
            self._root,
            servers={p.name for p in self.plans if p.owns_server},
            models={p.name for p in self.plans if p.model_port is not None},
            processes={k.process.name for k in self._keepers if k.process.role != "server"},
        )

    def request_drain(self) -> None:
        """End once the running tasks are finished."""
        self._drain_asked = True
        self.wake()

    def request_stop(self) -> None:
        """End now; running tasks are requeued."""
        self._stop_asked = True
        self.wake()

    def wake(self) -> None:
        """Make ``wait`` return."""
        self._waker.wake()

    def step(self) -> float:
        """One tick; returns the seconds until the next (a death or a request comes earlier, through ``wait``)."""
        self._troubles.tried("the process it was started for", self._watch_parent, None)
        self._watch_root()
        if self._drain_asked or self._stop_asked:
            self._troubles.tried("the end", self._end, None)
        else:
            self._troubles.tried("nodes", self._follow_nodes, None)
            self._troubles.tried("requests to restart", lambda: restarts.carry_out(self._root, self._keepers), None)
        pauses = [keeper.step() for keeper in self._keepers]
        if all(k.state is ChildState.EXITED for k in self._keepers):
            self._finish()
        if self.lost:
            return min(pauses, default=IDLE_S)
        self._publish()
        return min(pauses, default=IDLE_S)

    def wait(self, timeout_s: float) -> None:
        """Until a child ends, a server gets ready, something is asked or ``timeout_s`` has passed."""
        self._waker.wait(timeout_s, (*(k.watch_fd for k in self._keepers), self._parent_fd))

    def close(self) -> None:
        """An orderly end: the plan is removed."""
        if not self.lost:
            self._troubles.tried("the plan", lambda: remove_plan(self._root / "workers"), None)
        self._release()

    def abandon(self) -> None:
        """After a crash: touch nothing. The children go on; the next supervisor adopts them."""
        self._release()

    def _watch_parent(self) -> None:
        if self._parent is None or identities.is_same(self._parent):
            return
        log.info("pid %d, for which this swarm was started, has ended: draining", self._parent.pid)
        self._parent = None
        self._close_parent_fd()
        self._drain_asked = True

    def _watch_root(self) -> None:
        why = "" if self.lost else self._root_trouble()
        if why:
            log.error("Supervisor ends everything: %s; nothing more is read or written there", why)
            self.lost = self._stop_asked = True

    def _follow_nodes(self) -> None:
        """Keep the workers that their records ask for. The plan is written before one of them starts: it reads it."""
        if self._workers.follow():
            self._unsaved = True
        if self._unsaved:
            save_plan(self._root / "workers", self.plans)
            self._unsaved = False

    def _end(self) -> None:
        now_s = self._clock.mono_s()
        if self._drain_until_s is None:
            self._drain_until_s = now_s + self.drain_s
            log.info("Supervisor %s", "stopping" if self._stop_asked else "draining: workers finish their tasks")
        overdue = now_s >= self._drain_until_s
        if overdue and not self._stop_asked:
            log.warning("workers did not finish within %.0f s: stopping them", self.drain_s)
            self._stop_asked = True
        before: tuple[Keeper, ...] = ()
        workers = self._workers.keepers
        ranks = (self._http, True), (workers, True), (self._servers, False), (self._ray, True), ((self._brain,), False)
        for rank, drains in ranks:
            if any(k.state is not ChildState.EXITED for k in before):
                return
            for keeper in rank:
                if self._stop_asked or not drains:
                    keeper.stop()
                elif keeper.state is not ChildState.STOPPING:
                    keeper.drain()
            before += rank

    def _finish(self) -> None:
        self.finished = True
        end_model_servers(self._root)
        self.leftovers = find_leftovers(self._root)
        if self.leftovers:
            log.error("left running: %s", "; ".join(self.leftovers))
        else:
            log.info("Supervisor shutting down: no process of ours is left")
        if not self.leftovers and not self.lost:
            self._troubles.tried("what is left over", self._tidy, None)

    def _publish(self) -> None:
        children = self.children
        if self._published == (self.phase, children):
            return

        def save() -> None:
            status = SupervisorStatus(
                process=identities.current(),
                started_at=self._started_at,
                written_at=self._clock.iso(),
                phase=self.phase,
                simulated=any(p.simulated for p in self.plans),
                children=children,
                leftovers=self.leftovers,
            )
            save_status(self._root / "workers", status)
            self._published = (self.phase, children)

        # Seen on a full disk: the children matter more than the report.
        self._troubles.tried("the supervisor's status", save, None)

    def _release(self) -> None:
        for keeper in self._keepers:
            keeper.process.close()
        self._close_parent_fd()

    def _close_parent_fd(self) -> None:
        if self._parent_fd is not None:
            os.close(self._parent_fd)
            self._parent_fd = None
