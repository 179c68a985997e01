"""Makes the keepers of a supervisor: real processes, by role, each with its command line and what fits to be adopted."""

from __future__ import annotations

import os
from collections.abc import Callable

from swarm.config.listen import Address
from swarm.config.settings import Settings
from swarm.core.placement.worker_plan import WorkerPlan
from swarm.core.policy.restart_backoff import RestartPolicy
from swarm.core.worker import WorkerRow
from swarm.engines.ollama.quarantine import WorkerQuarantine
from swarm.engines.ollama.server import ServerProcess
from swarm.engines.ollama.server_spec import server_spec
from swarm.runtime.bootstrap import RunOptions
from swarm.runtime.ports import Clock
from swarm.supervisor.keeper import Keeper, Waker
from swarm.supervisor.local_process import HttpProcess, LocalProcess
from swarm.supervisor.state import HTTP, RAY

NEVER_READY_LIMIT = 3
"""Starts of a server in a row that never got ready before its card is quarantined."""


class KeeperFactory:
    """Starts nothing. ``argv_of`` gives the commands of the processes."""

    def __init__(self, options: RunOptions, waker: Waker, clock: Clock, argv_of: Callable[..., tuple[str, ...]]) -> None:
        self._options = options
        self._waker = waker
        self._clock = clock
        self._argv_of = argv_of
        self._policy = restart_policy(options.settings)

    def brain(self) -> Keeper:
        """Of the brain."""
        return self._local("brain", "brain", self._argv("brain"), lambda _row: True)

    def server(self, plan: WorkerPlan) -> Keeper:
        """Of a worker's own Ollama server."""
        settings, root = self._options.settings, self._options.root
        spec = server_spec(plan, settings, root=root, base_env=os.environ)
        return Keeper(
            ServerProcess(spec, on_ready=self._waker.wake),
            restart_policy(settings, NEVER_READY_LIMIT),
            self._clock,
            fault=plan.fault,
            book=WorkerQuarantine(root / "workers", plan.name, plan.gpu_uuids, settings.repair),
        )

    def worker(self, plan: WorkerPlan, server: Keeper | None) -> Keeper:
        """Of a worker, which starts once its ``server`` runs."""

        def fits(row: WorkerRow) -> bool:
            if plan.relay is not None:  # the rest is known once its relay has told it
                return (row.url, row.node) == (plan.url, plan.node)
            return (row.url, row.gpu_uuids, row.engines) == (plan.url, plan.gpu_uuids, plan.engines)

        return self._local(plan.name, "worker", self._argv("worker", plan.name), fits, server)

    def http(self, address: Address) -> Keeper:
        """Of the HTTP server."""
        process = HttpProcess(self._argv(HTTP, "--listen", address.text), self._options.root, address)
        return Keeper(process, self._policy, self._clock)

    def ray(self, address: str) -> Keeper:
        """Of the Ray driver."""
        simulate = self._options.simulate
        simulated = ("--simulate", str(simulate)) if simulate else ()
        return self._local(RAY, RAY, self._argv(RAY, "--address", address, *simulated), lambda row: row.url == address)

    def _argv(self, *words: str) -> tuple[str, ...]:
        return self._argv_of(*words, options=self._options)

    def _local(
        self, name: str, role: str, argv: tuple[str, ...], fits: Callable[[WorkerRow], bool], server: Keeper | None = None
    ) -> Keeper:
        process = LocalProcess(name, role, argv, self._options.root, fits)
        return Keeper(process, self._policy, self._clock, server=server)


def restart_policy(settings: Settings, never_ready_limit: int | None = None) -> RestartPolicy:
    """The restart policy from the settings."""
    wanted = settings.supervisor
    return RestartPolicy(
        base_s=wanted.restart_base_s,
        cap_s=wanted.restart_cap_s,
        healthy_s=wanted.healthy_s,
        never_ready_limit=never_ready_limit,
    )
