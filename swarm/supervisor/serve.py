"""``swarm serve NAME``: keeps the model server of one worker running, without a supervisor."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

from swarm.clock import SystemClock
from swarm.core.policy.restart_backoff import RestartPolicy
from swarm.engines.ollama.quarantine import WorkerQuarantine
from swarm.engines.ollama.server import ServerProcess, find_binary
from swarm.engines.ollama.server_spec import ServerSpec, remove_cards, server_spec
from swarm.errors import EXIT_USAGE, ConfigError, LockHeld
from swarm.proc import identity
from swarm.proc.ports import describe
from swarm.queue.coordination import is_held
from swarm.queue.layout import Layout
from swarm.queue.stores import registry
from swarm.runtime.bootstrap import RunOptions, check_host, living, logging_as, open_root, own_row
from swarm.runtime.logging import LogOnce
from swarm.runtime.loop import StopWish, install, root_watch, run_loop
from swarm.supervisor import restarts
from swarm.supervisor.keeper import Keeper, Waker
from swarm.supervisor.keeper_factory import NEVER_READY_LIMIT, restart_policy
from swarm.supervisor.state import HOST_PREFIX, NAME, ChildState
from swarm.worker.main import own_plan


def run_server(options: RunOptions, worker: str) -> int:
    """Keep this worker's server running until asked to stop; returns the exit status.

    A running server of an earlier host is adopted. Raises ``LockHeld`` when a supervisor or another host keeps it,
    ``ConfigError`` for a worker without a server of its own, and where there is no program to serve models.
    """
    check_host()
    plan = own_plan(options, worker)
    if not plan.owns_server:
        where = "it runs cpu and script tasks only"
        if plan.url is not None:
            where = f"it uses {plan.url}, which is never started by swarm"
        if plan.relay is not None:
            where = f"its card is in {plan.node}, where the relay (`swarm serve --relay`) keeps it"
        if plan.model_port is not None:
            where = f"it starts a process for each model itself (engine {plan.engines[0]})"
        raise ConfigError(f"{worker} has no server of its own: {where}")
    spec = server_spec(plan, options.settings, root=options.root, base_env=os.environ)
    find_binary(spec)
    queue, instead = open_root(options)
    _refuse_supervised(queue.layout, worker)
    name = f"{HOST_PREFIX}{worker}"
    with living(queue, own_row(name, "server")), logging_as(name, options) as log:
        for check in instead:
            log.info("Fallback: %s", check)
        book = WorkerQuarantine(options.root / "workers", worker, plan.gpu_uuids, options.settings.repair)
        host = ServerHost(
            options.root,
            spec,
            plan.fault,
            book,
            policy=restart_policy(options.settings, NEVER_READY_LIMIT),
            supervised=lambda: is_held(queue.layout, NAME),
            root_trouble=root_watch(queue.layout.root),
            log=log,
        )
        install(host.wish)
        code = run_loop(host, wait=host.wait, log=log)
        if host.lost:
            return EXIT_USAGE
        if host.ended and not host.failed:
            remove_cards(options.root, among=plan.gpu_uuids)
        return 1 if code == 0 and host.failed else code


class ServerHost:
    """Fits ``loop.Actor``. ``supervised`` tells whether a supervisor has come up, which then keeps the server instead."""

    def __init__(
        self,
        root: Path,
        spec: ServerSpec,
        fault: str | None,
        book: WorkerQuarantine,
        *,
        policy: RestartPolicy,
        supervised: Callable[[], bool],
        root_trouble: Callable[[], str],
        log: logging.Logger,
    ) -> None:
        self.title = f"Server host {spec.worker}"
        self.finished = False
        self.failed = False
        """Something of the server could not be ended."""
        self.ended = False
        """The server has ended with us; False while it goes on without."""
        self._waker = Waker()
        self.wish = StopWish(self._waker.wake)
        server = ServerProcess(spec, on_ready=self._waker.wake)
        self._keeper = Keeper(server, policy, SystemClock(), fault=fault, book=book)
        self._supervised = supervised
        self._root_trouble = root_trouble
        self.lost = False
        """Another directory lies where the queue root was."""
        self._root = root
        self._log = log
        self._troubles = LogOnce(log)

    def _carry_out(self) -> None:
        """Its worker may want it started for another number of slots."""
        restarts.carry_out(self._root, (self._keeper,), others=True)

    def step(self) -> float:
        """One tick; returns the seconds until the next."""
        why = "" if self.lost else self._root_trouble()
        if why:
            self._log.error("%s ends: %s", self.title, why)
            self.lost = True
        if not self.lost and self._troubles.tried("the supervisor's process lock", self._supervised, otherwise=False):
            self._log.warning("a supervisor has started and takes over the server")
            self.finished = True
            return 0.0
        if self.wish.urgency or self.lost:
            self._keeper.stop()
        else:
            self._troubles.tried("requests to restart", self._carry_out, None)
        pause_s = self._keeper.step()
        if self._keeper.state is ChildState.EXITED:
            self.finished = self.ended = True
            self.failed = bool(self._keeper.process.leftovers())
        return pause_s

    def wait(self, timeout_s: float) -> None:
        """Until the server ends or gets ready, a stop is asked for, or ``timeout_s`` has passed."""
        self._waker.wait(timeout_s, (self._keeper.watch_fd,))

    def close(self) -> None:
        """Log an orderly end."""
        self._keeper.process.close()
        self._log.info("%s shutting down", self.title)

    def abandon(self) -> None:
        """After a crash: the server goes on; the next host adopts it."""
        self._keeper.process.close()


def _refuse_supervised(layout: Layout, worker: str) -> None:
    if is_held(layout, NAME):
        row = registry.read_row(layout, NAME)
        who = f"{describe(row.process.pid)}" if row is not None and identity.is_same(row.process) else "the supervisor"
        raise LockHeld(f"{who} runs the server of {worker}", hint=f"`swarm restart ollama-{worker}`, or `swarm down` first")
