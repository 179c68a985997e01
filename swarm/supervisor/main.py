"""``swarm up`` and ``swarm down``: the supervisor process, starting one in the background, and ending one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import msgspec

from swarm.clock import SystemClock
from swarm.config.settings import Settings
from swarm.core.health.visible_gpus import Visibility
from swarm.core.placement.worker_plan import HOST, WorkerPlan, plan_workers
from swarm.core.policy.restart_backoff import RestartPolicy
from swarm.core.policy.script_entries import script_warnings
from swarm.core.worker import ProcessIdentity
from swarm.errors import EXIT_USAGE, EngineError, LockHeld, OddEntry
from swarm.filesystem.entries import read_file
from swarm.ollama.quarantine import QuarantineBook
from swarm.ollama.server import ServerProcess, find_binary
from swarm.ollama.server_spec import env_warnings, remove_cards, server_spec
from swarm.proc import identity
from swarm.proc.ports import describe, is_free
from swarm.queue.file_queue import FileQueue
from swarm.queue.fsck.fsck import recover_root
from swarm.queue.layout import Layout
from swarm.queue.storage.locks import is_held
from swarm.queue.stores import registry
from swarm.runtime.bootstrap import (
    RunOptions,
    check_host,
    command_of,
    life_lock,
    logging_as,
    open_root,
    own_row,
    root_watch,
)
from swarm.runtime.cards import visible_reader
from swarm.runtime.loop import on_hangup, run_loop
from swarm.supervisor.child import ChildState, ChildStatus, Supervised
from swarm.supervisor.local_process import LocalEngine
from swarm.supervisor.state import SupervisorStatus, load_plan, load_status, save_visibility
from swarm.supervisor.supervisor import NAME, SERVER_POLICY, Limits, Supervisor

START_POLL_S = 0.05
DRAIN_MARGIN_S = 30.0
LAST_PORT = 65535
FOR_PID = "--for-pid"


def run_supervisor(options: RunOptions, *, parent: ProcessIdentity | None = None) -> int:
    """Be the supervisor of this root until told to stop; returns the exit status.

    With ``parent`` it ends by itself when that process does. Raises ``LockHeld`` naming the holder, ``ConfigError``.
    """
    check_host()
    plans, visibility = _plans(options)
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
        supervisor = make_supervisor(queue, options, plans, visibility, parent)
        obey_signals(supervisor)
        supervisor.start()
        code = run_loop(supervisor, wait=supervisor.wait, log=log)
        if supervisor.lost:
            return EXIT_USAGE
        return 1 if code == 0 and supervisor.leftovers else code


def _plans(options: RunOptions) -> tuple[tuple[WorkerPlan, ...], Visibility]:
    """Who works where, and which cards there were to choose from.

    Raises ``ConfigError``, also when there is no program to serve models.
    """
    if options.simulate:
        return _simulated_plans(options, options.simulate), Visibility()
    reader = visible_reader(options.settings)
    cards = reader.read()
    plans = plan_workers(options.settings, cards, simulate=None, visibility=reader.visibility)
    for plan in plans:
        if plan.owns_server:
            find_binary(server_spec(plan, options.settings, root=options.root, base_env=os.environ))
    return plans, reader.visibility


def _simulated_plans(options: RunOptions, number: int) -> tuple[WorkerPlan, ...]:
    """Simulated servers give way to whoever has their ports; those of an earlier supervisor that died keep theirs."""
    earlier = load_plan(options.root / "workers") or ()
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
    visibility: Visibility | None = None,
    parent: ProcessIdentity | None = None,
) -> Supervisor:
    """A supervisor of these workers, with real processes; starts nothing."""
    layout = queue.layout

    def register() -> None:
        epoch = registry.next_epoch(layout, NAME)
        registry.register(layout, queue.storage, msgspec.structs.replace(own_row(NAME, NAME), epoch=epoch))
        if visibility is not None:
            save_visibility(options.root / "workers", visibility)
        remove_cards(options.root, keep={uuid for plan in plans if plan.simulated for uuid in plan.gpu_uuids})

    def tidy() -> None:
        remove_cards(options.root)
        recover_root(layout, queue.storage)

    def make_server(plan: WorkerPlan, on_ready: Callable[[], None]) -> Supervised:
        spec = server_spec(plan, options.settings, root=options.root, base_env=os.environ)
        return ServerProcess(spec, on_ready=on_ready)

    engine = LocalEngine(
        options.root,
        lock_held=lambda name: is_held(layout, name),
        read_row=lambda name: registry.read_row(layout, name),
        has_worked=lambda name, process: registry.has_worked(layout, name, process),
        pause=time.sleep,
    )
    return Supervisor(
        plans,
        root=options.root,
        clock=SystemClock(),
        life_lock=life_lock(layout, NAME),
        register=register,
        make_process=engine.process,
        make_server=make_server,
        make_book=lambda plan: QuarantineBook(options.root / "workers", plan.name, plan.gpu_uuids, options.settings.repair),
        brain_argv=command_of("brain", options=options),
        worker_argv=lambda name: command_of("worker", name, options=options),
        parent=parent,
        limits=_limits(options.settings),
        root_trouble=root_watch(layout.root),
        tidy=tidy,
    )


def _limits(settings: Settings) -> Limits:
    wanted = settings.supervisor
    worker = RestartPolicy(base_s=wanted.restart_base_s, cap_s=wanted.restart_cap_s, healthy_s=wanted.healthy_s)
    return Limits(
        worker=worker,
        server=msgspec.structs.replace(worker, never_ready_limit=SERVER_POLICY.never_ready_limit),
        drain_s=max(settings.llm.timeout_s, settings.command.timeout_s) + DRAIN_MARGIN_S,
    )


def obey_signals(supervisor: Supervisor, *, asked: int = 0) -> None:
    """SIGTERM, SIGINT and a terminal that closes drain, the second one stops; SIGQUIT stops at once.

    ``asked``: how often it was asked already.
    """

    def wish(_number: int, _frame: FrameType | None) -> None:
        nonlocal asked
        asked += 1
        (supervisor.request_drain if asked == 1 else supervisor.request_stop)()

    signal.signal(signal.SIGTERM, wish)
    signal.signal(signal.SIGINT, wish)
    on_hangup(wish)
    signal.signal(signal.SIGQUIT, lambda _number, _frame: supervisor.request_stop())


def run_served(settings: Settings) -> int | None:
    """The `swarm run` with which the living supervisor ends; None: it stays up until told, or none lives."""
    layout = Layout(settings.queue.root)
    row = registry.read_row(layout, NAME)
    if row is None or not is_held(layout, NAME):
        return None
    words = identity.command_line(row.process)
    return int(words[words.index(FOR_PID) + 1]) if FOR_PID in words[:-1] else None


def start_background(
    options: RunOptions,
    *,
    parent: bool,
    planned: Callable[[int, str], None] = lambda _workers, _note: None,
    noted: Callable[[str], None] = lambda _line: None,
) -> subprocess.Popen[bytes]:
    """Start ``swarm up`` in a session of its own, output to ``logs/supervisor.err``.

    With ``parent`` it ends when this process does. ``planned`` is told how many workers are about to start,
    and on which of the machine's cards, where that is not all of them; ``noted`` hears what is lost here.
    Raises ``LockHeld`` when one runs already.
    """
    check_host()
    plans, visibility = _plans(options)  # what is wrong with the configuration is said here, not in a log
    queue, instead = open_root(options)
    if is_held(queue.layout, NAME):
        _refuse(queue.layout)
    words = ["up"]
    if options.simulate:
        words += ["--simulate", str(options.simulate)]
    if parent:
        words += [FOR_PID, str(os.getpid())]
    for check in instead:
        if check.next:
            noted(f"note: {check}\nhint: {check.next}")
    planned(len(plans), visibility.note)
    log_path = Path(queue.layout.logs) / f"{NAME}.err"
    with open(queue.storage.open_own(str(log_path), os.O_WRONLY | os.O_CREAT | os.O_APPEND), "wb") as err:
        return subprocess.Popen(
            command_of(*words, options=options),
            stdin=subprocess.DEVNULL,
            stdout=err,
            stderr=err,
            start_new_session=True,
        )


def wait_until_up(options: RunOptions, process: subprocess.Popen[bytes], *, timeout_s: float) -> SupervisorStatus:
    """Until a worker runs and no other is starting; returns the status. Raises ``EngineError`` when none comes up."""
    deadline_s = time.monotonic() + timeout_s
    while True:
        status = load_status(options.root / "workers")
        mine = status if status is not None and status.process.pid == process.pid else None
        if mine is not None and _settled(mine):
            return mine
        if process.poll() is not None:
            raise EngineError(f"the swarm ended at its start: {_last_words(options, NAME)}", hint=_where(options))
        if mine is not None and (worker := _fails_at_start(mine)):
            raise EngineError(f"no worker stays up; {worker}: {_last_words(options, worker)}", hint=_where(options))
        if time.monotonic() > deadline_s:
            raise EngineError(f"no worker came up within {timeout_s:.0f} s: {_reasons(mine)}", hint=_where(options))
        time.sleep(START_POLL_S)


def _settled(status: SupervisorStatus) -> bool:
    workers = [c for c in status.children if c.role == "worker"]
    servers = {c.name: c for c in status.children if c.role == "server"}
    up = [w for w in workers if w.state is ChildState.RUNNING]
    coming = [c for c in (*workers, *servers.values()) if c.state is ChildState.STARTING]
    waiting = [w for w in workers if w.state is ChildState.BACKOFF and w.restarts == 0 and not _hopeless(w.name, servers)]
    return bool(up) and not coming and not waiting


def _fails_at_start(status: SupervisorStatus) -> str:
    """The first worker, if all of them have ended at their start, and again at the next; else empty."""
    workers = [c for c in status.children if c.role == "worker"]
    failed = [w for w in workers if w.state is ChildState.BACKOFF and w.restarts > 1]
    return workers[0].name if workers and len(failed) == len(workers) else ""


def _hopeless(worker: str, servers: dict[str, ChildStatus]) -> bool:
    server = servers.get(f"ollama-{worker}")
    return server is not None and server.state in (ChildState.QUARANTINED, ChildState.BACKOFF)


def _reasons(status: SupervisorStatus | None) -> str:
    if status is None:
        return "the supervisor says nothing"
    late = [f"{c.name} is {c.state}{f' ({c.reason})' if c.reason else ''}" for c in status.children]
    return "; ".join(late)


_MOST_WORDS_BYTES = 1 << 20


def _last_words(options: RunOptions, name: str) -> str:
    """The last error it told on standard error, with what it advised; else its last line."""
    try:
        said = read_file(str(options.root / "logs" / f"{name}.err"), _MOST_WORDS_BYTES)
    except (FileNotFoundError, OddEntry):
        return "it left no words"
    lines = said.decode(errors="replace").strip().splitlines()
    told = next((n for n in reversed(range(len(lines))) if lines[n].startswith("error: ")), None)
    if told is None:
        return lines[-1] if lines else "it left no words"
    advice = [line.removeprefix("hint: ") for line in lines[told + 1 :] if line.startswith("hint: ")]
    return "; ".join((lines[told].removeprefix("error: "), *advice))


def _where(options: RunOptions) -> str:
    return f"see {options.root}/logs/{NAME}.log and `swarm logs --root {options.root}`"


def start_detached(options: RunOptions) -> int:
    """Start ``swarm up`` in the background and return once it is up. Interrupted before that, it takes all of it back."""
    process = start_background(options, parent=False, planned=_say_note, noted=lambda line: _say_note(0, line))
    patience_s = options.settings.ollama.start_timeout_s + 30.0
    try:
        status = wait_until_up(options, process, timeout_s=patience_s)
    except KeyboardInterrupt:
        process.send_signal(signal.SIGQUIT)
        process.wait(patience_s)
        raise
    up = sum(1 for c in status.children if c.role == "worker" and c.state is ChildState.RUNNING)
    every = sum(1 for c in status.children if c.role == "worker")
    simulated = " on simulated cards" if status.simulated else ""
    print(f"swarm is up: {up} of {every} workers{simulated}, supervisor pid {process.pid}")  # noqa: T201
    return 0


def _say_note(_workers: int, note: str) -> None:
    if note:
        print(note, file=sys.stderr, flush=True)  # noqa: T201


def _refuse(layout: Layout) -> None:
    row = registry.read_row(layout, NAME)
    who = f"{describe(row.process.pid)}, since {row.started_at}" if row is not None else "holder unknown"
    raise LockHeld(f"a swarm is running already on {layout.root} ({who})", hint="`swarm status`, or `swarm down` first")
