"""The supervisor's process: plans the workers, and supervises real processes."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable
from types import FrameType

import msgspec

from swarm.clock import SystemClock
from swarm.config.listen import Address, http_address
from swarm.config.settings import Settings
from swarm.core.health.visible_gpus import Visibility
from swarm.core.nodes.relay_workers import unset_tokens
from swarm.core.placement.worker_plan import HOST, WorkerPlan, plan_workers
from swarm.core.policy.script_entries import script_warnings
from swarm.core.worker import ProcessIdentity
from swarm.engines.ollama.server import find_binary
from swarm.engines.ollama.server_spec import env_warnings, remove_cards, server_spec
from swarm.engines.processes.programs import check_engines
from swarm.errors import EXIT_USAGE, ConfigError
from swarm.proc.ports import is_free
from swarm.queue.file_queue import FileQueue
from swarm.queue.fsck.fsck import recover_root
from swarm.queue.layout import Layout
from swarm.queue.stores.node_book import NodeWatch, forget_nodes
from swarm.queue.stores.tokens import check_entry
from swarm.runtime.bootstrap import RunOptions, check_host, command_of, living, logging_as, open_root, own_row
from swarm.runtime.cards import visible_reader
from swarm.runtime.extras import need_http
from swarm.runtime.loop import on_hangup, root_watch, run_loop
from swarm.supervisor.keeper import Waker
from swarm.supervisor.keeper_factory import KeeperFactory
from swarm.supervisor.state import NAME, RAY, load_plan, save_visibility
from swarm.supervisor.supervisor import Supervisor
from swarm.supervisor.worker_keepers import WorkerKeepers

DRAIN_MARGIN_S = 30.0
LAST_PORT = 65535


def run_supervisor(options: RunOptions, *, parent: ProcessIdentity | None = None) -> int:
    """Run the supervisor of this root until asked to stop; returns the exit status.

    With ``parent`` it ends by itself when that process does. Raises ``LockHeld`` naming the holder, ``ConfigError``.
    """
    check_host()
    plans, visibility = plan_swarm(options)
    address = planned_http(options.settings)
    queue, instead = open_root(options)
    with logging_as(NAME, options) as log:
        log.info("Configuration: %s", options.config or "none, these are the defaults")
        for check in instead:
            log.warning("Fallback: %s%s", check, f" ({check.next})" if check.next else "")
        for warning in env_warnings(options.settings):
            log.warning("%s", warning)
        for risk in script_warnings(options.settings.scripts):
            log.warning("[scripts] %s: %s; %s", risk.name, risk.what, risk.next)
        if visibility.note:
            log.info("%s", visibility.note)
        supervisor = make_supervisor(queue, options, plans, address, ray=options.settings.ray.address, parent=parent)
        obey_signals(supervisor)
        code = supervise(supervisor, queue, options, log, visibility)
        if supervisor.lost:
            return EXIT_USAGE
        return 1 if code == 0 and supervisor.leftovers else code


def plan_swarm(options: RunOptions) -> tuple[tuple[WorkerPlan, ...], Visibility]:
    """Which worker gets which cards and server, and which cards there were to choose from.

    Raises ``ConfigError``, also when there is no program to serve models.
    """
    unset = next(unset_tokens(options.settings, os.environ), None)
    if unset is not None:
        raise ConfigError(f"[[workers]] {unset.name}: {unset.what}", hint=unset.next)
    if options.simulate:
        return _simulated_plans(options, options.simulate), Visibility()
    reader = visible_reader(options.settings)
    cards = reader.read()
    plans = plan_workers(
        options.settings, cards, simulate=None, visibility=reader.visibility, unavailable=reader.unavailable
    )
    for plan in plans:
        if plan.owns_server:
            find_binary(server_spec(plan, options.settings, root=options.root, base_env=os.environ))
        check_engines(plan, options.settings, os.environ)
    return plans, reader.visibility


def planned_http(settings: Settings) -> Address | None:
    """Where the HTTP server is to listen; None: there is to be none.

    Raises ``ConfigError`` without its packages or the token that it needs.
    """
    address = http_address(settings)
    if address is not None:
        need_http()
        check_entry(Layout(settings.queue.root), settings)
    return address


def _simulated_plans(options: RunOptions, number: int) -> tuple[WorkerPlan, ...]:
    """Simulated servers give way to whoever has their ports; those of an earlier supervisor that died keep theirs."""
    earlier = [p for p in load_plan(options.root / "workers") or () if p.relay is None]
    ports = [p.port for p in earlier if p.simulated]
    base = ports[0] if len(ports) == len(earlier) == number else None
    wanted = options.settings.ollama
    if base is None:
        base = wanted.base_port
        while not all(is_free(HOST, port) for port in range(base, base + number)) and base + 2 * number < LAST_PORT:
            base += number
    ollama = msgspec.structs.replace(wanted, base_port=base)
    return plan_workers(msgspec.structs.replace(options.settings, ollama=ollama), (), simulate=number)


def make_supervisor(
    queue: FileQueue,
    options: RunOptions,
    plans: tuple[WorkerPlan, ...],
    http: Address | None = None,
    *,
    ray: str | None = None,
    follow_nodes: bool = True,
    parent: ProcessIdentity | None = None,
    argv_of: Callable[..., tuple[str, ...]] = command_of,
) -> Supervisor:
    """A supervisor of these workers, with real processes; starts nothing. ``http``: where an HTTP server is to listen.

    ``ray``: address of the Ray cluster whose cards are to be used. ``follow_nodes``: keep the workers of cards of other
    machines as their records ask for them. ``argv_of`` gives the commands of its children.
    """
    settings, waker, clock = options.settings, Waker(), SystemClock()
    makes = KeeperFactory(options, waker, clock, argv_of)

    def tidy() -> None:
        remove_cards(options.root)
        forget_nodes(queue.layout)
        recover_root(queue.layout, queue.storage)

    servers = {plan.name: makes.server(plan) for plan in plans if plan.owns_server}
    workers = WorkerKeepers(
        plans,
        lambda plan: makes.worker(plan, servers.get(plan.name)),
        NodeWatch(queue.layout).look if follow_nodes else None,
        () if ray is None else (RAY,),
    )
    drain_s = max(settings.llm.timeout_s, settings.command.timeout_s) + DRAIN_MARGIN_S
    return Supervisor(
        options.root,
        clock,
        waker,
        brain=makes.brain(),
        servers=tuple(servers.values()),
        workers=workers,
        http=() if http is None else (makes.http(http),),
        ray=() if ray is None else (makes.ray(ray),),
        drain_s=drain_s if http is None else drain_s + settings.http.stop_grace_s,
        parent=parent,
        root_trouble=root_watch(queue.layout.root),
        tidy=tidy,
    )


def supervise(
    supervisor: Supervisor,
    queue: FileQueue,
    options: RunOptions,
    log: logging.Logger,
    visibility: Visibility | None = None,
    begun: Callable[[], None] = lambda: None,
) -> int:
    """Hold the supervisor's process lock and run it to its end; the exit status. ``begun`` is called before its first tick.

    Raises ``LockHeld`` naming the holder, ``StorageFault``, ``OSError``.
    """
    with living(queue, own_row(NAME, NAME)):
        if visibility is not None:
            save_visibility(options.root / "workers", visibility)
        remove_cards(options.root, keep={uuid for plan in supervisor.plans if plan.simulated for uuid in plan.gpu_uuids})
        supervisor.start()
        begun()
        return run_loop(supervisor, wait=supervisor.wait, log=log)


def obey_signals(supervisor: Supervisor, *, asked: int = 0) -> None:
    """SIGTERM, SIGINT and a terminal that closes drain, the second one stops; SIGQUIT stops at once.

    ``asked``: how often it was asked already.
    """

    def obey(_number: int, _frame: FrameType | None) -> None:
        nonlocal asked
        asked += 1
        (supervisor.request_drain if asked == 1 else supervisor.request_stop)()

    signal.signal(signal.SIGTERM, obey)
    signal.signal(signal.SIGINT, obey)
    on_hangup(obey)
    signal.signal(signal.SIGQUIT, lambda _number, _frame: supervisor.request_stop())
