"""``swarm up``: keeps brain, model servers and workers running, and ends them in order.

One turn: note what was asked -> let each child take a step (servers before workers, so that a worker starts in the turn
its server got ready) -> move the end on by one rank when the rank before it is gone -> publish what changed.
The end goes by rank: workers finish their tasks, then servers, then the brain, which may still take back and record.
"""

from __future__ import annotations

import logging
import os
import select
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from swarm.core.placement.worker_plan import WorkerPlan
from swarm.core.policy.restart_backoff import RestartPolicy
from swarm.core.worker import ProcessIdentity
from swarm.proc import identity as identities
from swarm.runtime.log_once import LogOnce
from swarm.runtime.ports import Clock
from swarm.supervisor import restart_requests as restarts
from swarm.supervisor.child import ChildState, ChildStatus, LifeLock, MakeProcess, QuarantineBook, Supervised
from swarm.supervisor.cleanup import end_strangers, find_leftovers, trim_logs
from swarm.supervisor.keeper import IDLE_S, Keeper
from swarm.supervisor.state import SupervisorStatus, remove_plan, save_plan, save_status

log = logging.getLogger(__name__)
NAME = "supervisor"
TRIM_S = 60.0
WORKER_POLICY = RestartPolicy()
SERVER_POLICY = RestartPolicy(never_ready_limit=3)


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """How patient the supervisor is."""

    worker: RestartPolicy = WORKER_POLICY
    server: RestartPolicy = SERVER_POLICY
    drain_s: float = 700.0
    """Workers that have not finished their tasks by then are stopped: just above the longest a task may take."""


class Supervisor:
    """Fits ``loop.Actor``; one per queue root. ``start`` first, then ``step`` and ``wait`` in turns until ``finished``.

    ``request_drain``, ``request_stop`` and ``wake`` may be called from signal handlers and other threads.
    """

    title = "Supervisor"

    def __init__(
        self,
        plans: Sequence[WorkerPlan],
        *,
        root: Path,
        clock: Clock,
        life_lock: LifeLock,
        register: Callable[[], None],
        make_process: MakeProcess,
        make_server: Callable[[WorkerPlan, Callable[[], None]], Supervised],
        make_book: Callable[[WorkerPlan], QuarantineBook | None] = lambda _plan: None,
        brain_argv: Sequence[str],
        worker_argv: Callable[[str], Sequence[str]],
        parent: ProcessIdentity | None = None,
        limits: Limits | None = None,
        root_trouble: Callable[[], str] = lambda: "",
        tidy: Callable[[], None] = lambda: None,
    ) -> None:
        """``root_trouble``: why the root is no longer the directory it was; then all is ended, and nothing written there.

        ``tidy`` removes what is of no use once no process is left.
        """
        self.finished = False
        self._plans = tuple(plans)
        self._root = root
        self._clock = clock
        self._life_lock = life_lock
        self._register = register
        self._limits = limits or Limits()
        self._tidy = tidy
        self._make_book = make_book
        self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._parent = parent
        self._parent_fd = identities.open_pidfd(parent) if parent is not None else None
        self._drain_asked = self._stop_asked = False
        self._root_trouble = root_trouble
        self.lost = False
        """Another directory lies where the queue root was."""
        self._drain_until_s: float | None = None
        self._started_at = clock.iso()
        self._published: tuple[str, tuple[ChildStatus, ...]] | None = None
        self._trim_at_s = 0.0
        self._troubles = LogOnce(log)
        self.leftovers: tuple[str, ...] = ()
        brain = make_process("brain", "brain", tuple(brain_argv), fits=lambda _row: True)
        self._brain = Keeper(brain, policy=self._limits.worker, clock=clock)
        servers = {p.name: self._server_keeper(p, make_server) for p in self._plans if p.owns_server}
        self._servers = tuple(servers.values())
        self._workers = tuple(
            self._worker_keeper(p, make_process, worker_argv(p.name), servers.get(p.name)) for p in self._plans
        )

    @property
    def phase(self) -> str:
        """``running``, ``draining``, ``stopping`` or ``ended``."""
        if self.finished:
            return "ended"
        return "stopping" if self._stop_asked else "draining" if self._drain_asked else "running"

    @property
    def children(self) -> tuple[ChildStatus, ...]:
        """How all of them are: brain, servers, workers."""
        return tuple(k.status for k in self._keepers)

    def start(self) -> None:
        """Take the life lock, publish the plan, end what an earlier, different plan left running.

        Raises ``LockHeld`` (another supervisor runs; named), ``StorageFault``, ``OSError``.
        """
        self._life_lock.acquire()
        self._register()
        restarts.forget(self._root)
        save_plan(self._root / "workers", self._plans)
        end_strangers(
            self._root,
            servers={p.name for p in self._plans if p.owns_server},
            processes={"brain", *(p.name for p in self._plans)},
        )

    def request_drain(self) -> None:
        """End once the running tasks are finished."""
        self._drain_asked = True
        self.wake()

    def request_stop(self) -> None:
        """End now; running tasks are given back."""
        self._stop_asked = True
        self.wake()

    def wake(self) -> None:
        """Make ``wait`` return."""
        os.eventfd_write(self._wake_fd, 1)

    def step(self) -> float:
        """One turn; returns the seconds until the next (a death or a wish comes earlier, through ``wait``)."""
        self._watch_parent()
        self._watch_root()
        if self._drain_asked or self._stop_asked:
            self._troubles.tried("the end", self._end, None)
        else:
            self._troubles.tried("requests to restart", lambda: restarts.obey(self._root, self._keepers), None)
        pauses = [keeper.step() for keeper in self._keepers]
        if all(k.state is ChildState.EXITED for k in self._keepers):
            self._finish()
        if self.lost:
            return min(pauses, default=IDLE_S)
        self._publish()
        if self._clock.mono_s() >= self._trim_at_s:
            self._trim_at_s = self._clock.mono_s() + TRIM_S
            self._troubles.tried("logs", lambda: trim_logs(self._root), None)
        return min(pauses, default=IDLE_S)

    def wait(self, timeout_s: float) -> None:
        """Until a child ends, a server gets ready, something is asked or ``timeout_s`` has passed."""
        poll = select.poll()
        poll.register(self._wake_fd, select.POLLIN)
        for fd in (*(k.watch_fd for k in self._keepers), self._parent_fd):
            if fd is not None:
                poll.register(fd, select.POLLIN)
        ready = poll.poll(max(timeout_s, 0.0) * 1000)
        if any(fd == self._wake_fd for fd, _ in ready):
            os.eventfd_read(self._wake_fd)

    def close(self) -> None:
        """The last words: the plan goes, the lock is given back."""
        if not self.lost:
            self._troubles.tried("the plan", lambda: remove_plan(self._root / "workers"), None)
        self._let_go()

    def abandon(self) -> None:
        """After a crash: touch nothing. The children go on; the next supervisor adopts them."""
        self._let_go()

    @property
    def _keepers(self) -> tuple[Keeper, ...]:
        return (self._brain, *self._servers, *self._workers)

    def _server_keeper(self, plan: WorkerPlan, make: Callable[[WorkerPlan, Callable[[], None]], Supervised]) -> Keeper:
        book = self._make_book(plan)
        return Keeper(make(plan, self.wake), policy=self._limits.server, clock=self._clock, fault=plan.fault, book=book)

    def _worker_keeper(self, plan: WorkerPlan, make: MakeProcess, argv: Sequence[str], server: Keeper | None) -> Keeper:
        def wait_for() -> str | None:
            if server is None or server.state is ChildState.RUNNING:
                return None
            reason = server.status.reason
            return f"waits for its server, which is {server.state}{': ' + reason if reason else ''}"

        process = make(plan.name, "worker", argv, fits=lambda row: row.url == plan.url and row.gpu_uuids == plan.gpu_uuids)
        return Keeper(process, policy=self._limits.worker, clock=self._clock, wait_for=wait_for)

    def _watch_parent(self) -> None:
        if self._parent is None or identities.is_same(self._parent):
            return
        log.info("pid %d, for which this swarm was started, is gone: draining", self._parent.pid)
        self._parent = None
        self._close_parent_fd()
        self._drain_asked = True

    def _watch_root(self) -> None:
        why = "" if self.lost else self._root_trouble()
        if why:
            log.error("Supervisor ends everything: %s; nothing more is read or written there", why)
            self.lost = self._stop_asked = True

    def _end(self) -> None:
        now_s = self._clock.mono_s()
        if self._drain_until_s is None:
            self._drain_until_s = now_s + self._limits.drain_s
            log.info("Supervisor %s", "stopping" if self._stop_asked else "draining: workers finish their tasks")
        overdue = now_s >= self._drain_until_s
        if overdue and not self._stop_asked:
            log.warning("workers did not finish within %.0f s: stopping them", self._limits.drain_s)
            self._stop_asked = True
        for keeper in self._workers:
            if self._stop_asked:
                keeper.stop()
            elif keeper.state is not ChildState.STOPPING:
                keeper.drain()
        for rank, before in ((self._servers, self._workers), ((self._brain,), (*self._workers, *self._servers))):
            if all(k.state is ChildState.EXITED for k in before):
                for keeper in rank:
                    keeper.stop()

    def _finish(self) -> None:
        self.finished = True
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
        status = SupervisorStatus(
            process=identities.current(),
            started_at=self._started_at,
            written_at=self._clock.iso(),
            phase=self.phase,
            simulated=any(p.simulated for p in self._plans),
            children=children,
            leftovers=self.leftovers,
        )

        def save() -> None:
            save_status(self._root / "workers", status)
            self._published = (self.phase, children)

        # Seen on a full disk: the children matter more than the report.
        self._troubles.tried("the supervisor's status", save, None)

    def _let_go(self) -> None:
        for keeper in self._keepers:
            keeper.process.close()
        # The wake descriptor stays open: a thread may still ring it.
        self._close_parent_fd()
        self._life_lock.release()

    def _close_parent_fd(self) -> None:
        if self._parent_fd is not None:
            os.close(self._parent_fd)
            self._parent_fd = None
