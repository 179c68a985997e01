"""The relay's process: ``swarm serve --relay``."""

from __future__ import annotations

import logging
import re
import secrets
import shutil
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec
from aiohttp import web

from swarm.config.listen import Address
from swarm.core.gpu_reading import held_mib
from swarm.core.nodes.node_names import worker_name
from swarm.core.nodes.relay_wire import RelayReady, card_path
from swarm.core.placement.worker_plan import WorkerPlan
from swarm.engines.engine_factory import adopt_left
from swarm.engines.ollama.server_spec import env_warnings, remove_cards
from swarm.errors import LockHeld
from swarm.proc.identity import is_same
from swarm.proc.listening import listening_sockets
from swarm.proc.open_files import allow_many_files
from swarm.queue.coordination import is_locked
from swarm.queue.layout import Layout
from swarm.queue.storage import Storage
from swarm.queue.stores import registry
from swarm.relay.node_facts import SharedLook, node_look
from swarm.relay.relay_card import RelayCard
from swarm.relay.relay_guard import GuardProcess
from swarm.relay.relay_host import RelayHost
from swarm.relay.relay_plan import SIM_MODELS, plan_cards
from swarm.relay.relay_root import open_relay_root, relay_token
from swarm.relay.routes import RelayRoutes
from swarm.relay.shared_pulls import SharedPulls
from swarm.runtime.bootstrap import RunOptions, check_host, logging_as, own_row, process_lock
from swarm.runtime.cards import gpu_reader, machine_reader
from swarm.runtime.event_loop import EventLoop
from swarm.runtime.loop import EXIT_CRASHED, RootGuard, install, run_loop
from swarm.runtime.ports import GpuReader
from swarm.supervisor.keeper import Waker

NAME = "relay"
STALLED_MS = 10_000
"""A connection whose far end is silent for so long, with lines sent to it every ``BEAT_S``, is cut by the kernel."""
KEEP_ALIVE_S = 330.0
"""Longer than workers keep an idle connection, so that they end it."""
LOCK_WAIT_S = 5.0
"""The guard of an earlier life holds the lock of a card while it ends its servers."""


class RelayOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What the command line says."""

    run: RunOptions
    """The queue root in its settings is the relay's own directory."""
    listen: Address
    """Port 0: any free one."""
    node: str
    card: str | None = None
    token_file: Path | None = None
    lease_s: float | None = None
    watch_fd: int | None = None
    as_json: bool = False


def run_relay(options: RelayOptions) -> int:
    """Serve the cards of this machine until asked to stop; returns the exit status.

    Raises ``ConfigError``, ``EngineError`` (the port is taken), ``LockHeld``.
    """
    check_host()
    run = options.run
    open_relay_root(run.root)
    token, token_path, fresh = relay_token(run.root, options.token_file)
    plans = plan_cards(run, options.card)
    life = secrets.token_hex(8)
    with ExitStack() as open_things:
        _lock_cards(open_things, run.root, plans)
        sockets = listening_sockets(options.listen, stalled_ms=STALLED_MS, hint="choose another one: --listen")
        log = open_things.enter_context(logging_as(_name(options, plans), run))
        for warning in (*env_warnings(run.settings), *filter(None, [allow_many_files()])):
            log.warning("%s", warning)
        url = _url(options.listen, sockets[0])
        _register(run.root, plans, url)
        waker = Waker()
        cards = {plan.name: _card(plan, options, waker, log) for plan in plans}
        look = SharedLook("node-look", node_look(_reader(run, plans), run.root))
        routes = RelayRoutes(options.node, life, token, cards, look, SharedPulls(run.root))
        with _served(routes, sockets, cards) as loop:
            host = RelayHost(
                run.root,
                cards,
                GuardProcess(run.root, tuple(cards)),
                waker,
                quiet_s=routes.quiet_s,
                hang_up=loop.close,
                root_trouble=RootGuard(str(run.root), "the relay's directory").trouble,
                lease_s=options.lease_s,
                watch_fd=options.watch_fd,
                log=log,
            )
            install(host.wish)
            log.info("Relay of %s on %s: %s", options.node, url, ", ".join(cards))
            _say(options, life, url, token if fresh else "", token_path, plans)
            code = run_loop(host, wait=host.wait, log=log)
        look.close()
        if code != EXIT_CRASHED:
            _remove_simulated(run.root, plans)
        return 1 if code == 0 and host.leftovers else code


def _name(options: RelayOptions, plans: tuple[WorkerPlan, ...]) -> str:
    """Of its log. Relays of single cards share a root; one that an actor started has been shown no other card."""
    single = options.card is not None or (options.watch_fd is not None and len(plans) == 1)
    return f"{NAME}-{plans[0].name}" if single else NAME


def _lock_cards(held: ExitStack, root: Path, plans: tuple[WorkerPlan, ...]) -> None:
    """One relay per card. Raises ``LockHeld``."""
    layout = Layout(str(root))
    for plan in plans:
        lock, row = process_lock(layout, plan.name), registry.read_row(layout, plan.name)
        try:
            lock.acquire(0.0 if row is not None and is_same(row.process) else LOCK_WAIT_S)
        except LockHeld as error:
            hint = "stop it first, or choose another --root"
            raise LockHeld(f"another relay serves this card: {error.message}", hint=hint) from error
        held.callback(lock.release)


def _register(root: Path, plans: tuple[WorkerPlan, ...], url: str) -> None:
    """Who serves these cards, for whoever is refused."""
    layout, storage = Layout(str(root)), Storage("fast", str(root))
    for plan in plans:
        row = own_row(plan.name, NAME)
        registry.register(
            layout,
            storage,
            msgspec.structs.replace(row, url=url + card_path(plan.name), gpus=plan.gpus, gpu_uuids=plan.gpu_uuids),
        )


def _card(plan: WorkerPlan, options: RelayOptions, waker: Waker, log: logging.Logger) -> RelayCard:
    """One card, with the processes that an earlier life left. Raises ``EngineError`` while one of them cannot be killed."""
    reader = _reader(options.run, (plan,))

    def vram_mib(pids: frozenset[int]) -> int:
        return held_mib(reader.read(), plan.gpu_uuids, pids)

    card = RelayCard(plan, options.run, options.node, on_ready=waker.wake, vram_mib=vram_mib, log=log)
    adopt_left(card.adopt, plan.name, log)
    return card


def _remove_simulated(root: Path, plans: tuple[WorkerPlan, ...]) -> None:
    """Simulated cards end with their relay; the disk that they share, with the last one of this root."""
    remove_cards(root, among=[uuid for plan in plans for uuid in plan.gpu_uuids])
    mine = {f"{plan.name}.lock" for plan in plans}
    if not any(is_locked(str(lock)) for lock in (root / "workers").glob("*.lock") if lock.name not in mine):
        shutil.rmtree(root / SIM_MODELS, ignore_errors=True)


def _reader(run: RunOptions, plans: tuple[WorkerPlan, ...]) -> GpuReader:
    if run.simulate is not None:
        return gpu_reader(run.settings, max(index for plan in plans for index in plan.gpus) + 1)
    return machine_reader()


@contextmanager
def _served(routes: RelayRoutes, sockets: list[socket.socket], cards: dict[str, RelayCard]) -> Iterator[EventLoop]:
    """Serves within the block; ``close`` of the loop ends that earlier, and cuts what runs."""
    loop = EventLoop("relay-requests")
    runner = web.AppRunner(
        routes.app(), access_log=None, handler_cancellation=True, shutdown_timeout=0.1, keepalive_timeout=KEEP_ALIVE_S
    )

    async def start() -> None:
        await runner.setup()
        for one in sockets:
            await web.SockSite(runner, one).start()

    for card in cards.values():
        loop.at_close(card.close_work)
    loop.at_close(runner.cleanup)
    try:
        loop.call(start())
        yield loop
    finally:
        loop.close()


def _url(listen: Address, bound: socket.socket) -> str:
    port = bound.getsockname()[1]
    return Address(socket.gethostname() if listen.is_every else listen.host, port).url


def _say(options: RelayOptions, life: str, url: str, token: str, token_path: Path, plans: tuple[WorkerPlan, ...]) -> None:
    """What whoever started it has to know. The token is shown once, and only to a terminal: other output may be kept."""
    bases = tuple(url + card_path(plan.name) for plan in plans)
    if options.as_json:
        ready = RelayReady(node=options.node, life=life, url=url, cards=bases, token_file=str(token_path))
        print(msgspec.json.encode(ready).decode(), flush=True)  # noqa: T201
        return
    simulated = " (simulated)" if any(plan.simulated for plan in plans) else ""
    lines = [f"Relay of {options.node} on {url}: {', '.join(plan.name for plan in plans)}{simulated}"]
    if options.listen.is_loopback:
        lines.append("only this machine reaches it; for others: --listen HOST:PORT")
    shown = token and sys.stdout.isatty()
    variable = f"SWARM_TOKEN_{re.sub('[^A-Za-z0-9]', '_', options.node).upper()}"
    secret = f'token = "{token}"' if shown else f'token_env = "{variable}"     # the text in {token_path}'
    lines += ["", "For the configuration of the machine with the queue:"]
    for plan, base in zip(plans, bases, strict=True):
        name = worker_name(options.node, plan.name)
        lines += ["", "[[workers]]", f'name = "{name}"', f'node = "{options.node}"', f'url = "{base}"', secret]
    if shown:
        lines += ["", f"The token is shown this once; it is kept in {token_path}"]
    print("\n".join(lines), flush=True)  # noqa: T201
