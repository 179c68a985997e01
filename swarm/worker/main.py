"""One worker process: its plan, its parts put together, its loop."""

from __future__ import annotations

import logging
import os
import random

import msgspec

from swarm.core.faults import TaskFault
from swarm.core.gpu_reading import held_mib
from swarm.core.models.engines import OLLAMA
from swarm.core.placement.worker_plan import HOST, WorkerPlan, plan_workers
from swarm.core.policy.slots import slot_limits
from swarm.core.task import TaskClass
from swarm.core.worker import WorkerRow, WorkerStatus
from swarm.engines.engine_dispatch import EngineDispatch, WorkerServer
from swarm.engines.engine_factory import adopt_left, model_server
from swarm.engines.ollama.server import find_binary
from swarm.engines.ollama.server_spec import server_spec
from swarm.engines.processes.programs import check_engines
from swarm.errors import EXIT_OK, EXIT_USAGE, ConfigError, EngineError, name_hint
from swarm.proc.ports import is_free
from swarm.queue.coordination import WakeUp
from swarm.queue.file_queue import FileQueue
from swarm.queue.layout import Layout
from swarm.queue.stores import registry
from swarm.queue.worker.orphans import reclaim
from swarm.runtime.bootstrap import RunOptions, check_host, living, logging_as, open_root, own_row
from swarm.runtime.cards import visible_reader
from swarm.runtime.event_loop import EventLoop
from swarm.runtime.loop import EXIT_CRASHED, RootGuard, StopWish, install, root_watch, run_loop
from swarm.runtime.open import crash_rule
from swarm.supervisor.state import load_plan
from swarm.supervisor.what_runs import end_remains
from swarm.worker.executors.command import CommandExecutor
from swarm.worker.heartbeat import HeartbeatThread, WorkerState
from swarm.worker.live.live_server import LiveServer, open_live_server
from swarm.worker.parts import WorkerParts
from swarm.worker.remote_wiring import RemoteCard, remote_card
from swarm.worker.server_wiring import card_reader, is_kept, with_model_server
from swarm.worker.worker import Worker


def run_worker(options: RunOptions, name: str) -> int:
    """Be this worker until asked to stop; returns the exit status. Raises ``LockHeld``, ``ConfigError``, ``EngineError``."""
    check_host()
    plan = own_plan(options, name)
    queue, instead = open_root(options)
    root_trouble = root_watch(queue.layout.root)
    _refuse_without_server(plan, options, queue.layout)
    with living(queue, _row(plan, options)) as row, logging_as(name, options) as log:
        for check in instead:
            log.info("Fallback: %s", check)
        reclaimed = _reclaim_own(queue, options, name, log)
        wakeup = queue.wakeup()
        wish = StopWish(wakeup.wake_self)
        install(wish)
        state = WorkerState(name=name, pid=os.getpid(), epoch=row.epoch)
        state.count(crashes=reclaimed)
        beats = HeartbeatThread(
            beat_of=state.heartbeat,
            sink=queue.heartbeats(),
            period_s=options.settings.worker.heartbeat_s,
            log=log,
        )
        beats.start()
        remote = None
        if plan.relay is not None:
            remote = _remote_card(plan, options, queue, row, state, beats, wish, wakeup, log)
            if remote is None:
                return EXIT_USAGE if root_trouble() else EXIT_OK
            plan = remote.plan
        server = _server(options, plan, log) if remote is None else remote.server
        parts = _parts(queue, options, plan, server, wakeup, beats, log, remote)
        code = EXIT_CRASHED
        try:
            worker = Worker(parts, state, wish)
            _take_live_requests(worker, parts, queue.layout, name)
            code = run_loop(worker, wait=wakeup.wait, log=log, lost=root_trouble)
        finally:
            if parts.loop is not None:
                parts.loop.close()
            if remote is not None:
                remote.close()
            elif server is not None:
                _leave(server, log, crashed=code == EXIT_CRASHED)
            wakeup.close()
        return code


def own_plan(options: RunOptions, name: str) -> WorkerPlan:
    """From the supervisor's plan; started alone, from the configuration and the cards there are."""
    plans = load_plan(options.root / "workers")
    if plans is None or not any(p.name == name for p in plans):
        reader = visible_reader(options.settings)
        cards = () if options.simulate else reader.read()
        plans = plan_workers(
            options.settings,
            cards,
            simulate=options.simulate,
            visibility=reader.visibility,
            unavailable=None if options.simulate else reader.unavailable,
        )
    found = next((p for p in plans if p.name == name), None)
    if found is None:
        names = [p.name for p in plans]
        raise ConfigError(f"no worker is called {name}", hint=name_hint(name, names))
    return found


def _refuse_without_server(plan: WorkerPlan, options: RunOptions, layout: Layout) -> None:
    """Started alone, where nobody serves its models and there is no program that could. Raises ``ConfigError``."""
    if plan.owns_server and plan.port is not None and not is_kept(layout, plan) and is_free(HOST, plan.port):
        find_binary(server_spec(plan, options.settings, root=options.root, base_env=os.environ))
    if plan.relay is None:
        check_engines(plan, options.settings, os.environ)


def _row(plan: WorkerPlan, options: RunOptions) -> WorkerRow:
    return msgspec.structs.replace(
        own_row(plan.name, "worker"),
        gpus=plan.gpus,
        gpu_uuids=plan.gpu_uuids,
        port=plan.port,
        url=plan.url,
        adopted=plan.adopted,
        engines=plan.engines,
        model_port=plan.model_port,
        simulated=plan.simulated,
        node=plan.node,
        llm_slots=slot_limits(options.settings.worker, options.settings.llm).llm,
    )


def _remote_card(
    plan: WorkerPlan,
    options: RunOptions,
    queue: FileQueue,
    row: WorkerRow,
    state: WorkerState,
    beats: HeartbeatThread,
    wish: StopWish,
    wakeup: WakeUp,
    log: logging.Logger,
) -> RemoteCard | None:
    """Its card in another machine, once the relay there has told of it; registered then. None: asked to stop before.

    Raises ``ConfigError``, ``EngineError``.
    """
    found = None
    try:
        trouble = RootGuard(queue.layout.root).trouble
        found = remote_card(
            plan, options, queue.layout, state=state, beats=beats, wish=wish, wait=wakeup.wait, trouble=trouble, log=log
        )
    finally:
        if found is None:
            state.publish(status=WorkerStatus.STOPPED)
            beats.stop()
            wakeup.close()
    if found is not None:
        known = _row(found.plan, options)
        queue_row = msgspec.structs.replace(known, process=row.process, started_at=row.started_at, epoch=row.epoch)
        registry.register(queue.layout, queue.storage, queue_row)
        state.cards_by(found.seen)
        state.publish(status=WorkerStatus.STARTING, reason="")
        found.mirror.start()
    return found


def _reclaim_own(queue: FileQueue, options: RunOptions, name: str, log: logging.Logger) -> int:
    """Reclaim what an earlier life of this name held, before anything is claimed and also without a brain. How many.

    Raises ``EngineError`` while a program of it cannot be killed: under the process lock of a worker that goes on, nobody
    could give its tasks back later.
    """
    stuck = end_remains(str(options.root), name)
    if stuck:
        raise EngineError(
            f"{name}: programs of its tasks cannot be killed: {stuck}",
            hint="state D is stuck in the kernel: see `dmesg`; start it again once that has ended (`swarm up` does)",
        )
    lines = reclaim(queue.layout, queue.storage, name, crash_rule(options.settings.retry))
    for line in lines:
        log.warning("%s", line)
    queue.wake()
    return len(lines)


def _server(options: RunOptions, plan: WorkerPlan, log: logging.Logger) -> EngineDispatch | None:
    """The model server, with the processes that an earlier life left; None for a worker without one.

    Raises ``ConfigError``; ``EngineError`` while a process of an earlier life cannot be killed: it would hold the card.
    """
    if plan.url is None:
        return None
    reader = card_reader(options, plan) if plan.gpus else None

    def vram_mib(pids: frozenset[int]) -> int:
        return 0 if reader is None else held_mib(reader.read(), plan.gpu_uuids, pids)

    server = model_server(plan, options.settings, root=options.root, env=os.environ, log=log, vram_mib=vram_mib)
    adopt_left(server.adopt, plan.name, log)
    return server


def _leave(server: WorkerServer, log: logging.Logger, *, crashed: bool) -> None:
    """End the processes that serve models; after a crash the next life takes them over."""
    if crashed:
        server.release()
        return
    try:
        server.close()
    except TaskFault as fault:
        log.error("%s", fault.message)  # noqa: TRY400  (what it means is in the words)


def _parts(
    queue: FileQueue,
    options: RunOptions,
    plan: WorkerPlan,
    server: WorkerServer | None,
    wakeup: WakeUp,
    beats: HeartbeatThread,
    log: logging.Logger,
    remote: RemoteCard | None,
) -> WorkerParts:
    settings = options.settings
    command = CommandExecutor(
        settings.command, scripts=settings.scripts, root=str(options.root), work_dir=queue.layout.work_of(plan.name)
    )
    parts = WorkerParts(
        queue=queue.worker_view(plan.name),
        wake=wakeup.wake_self,
        executors={TaskClass.CPU: command, TaskClass.SCRIPT: command},
        beats=beats,
        jitter=random.random,
        log=log,
        settings=settings,
        gpu=",".join(plan.gpu_uuids) or None,
        place=_place(plan),
    )
    if server is None:
        return parts
    loop = EventLoop(f"{plan.name}-requests")
    loop.at_close(server.close_work)
    return with_model_server(parts, queue.layout, options, plan, server, loop, queue.slot_book(plan.name), remote)


def _take_live_requests(worker: Worker, parts: WorkerParts, layout: Layout, name: str) -> None:
    if worker.live is None or parts.live_model is None or parts.loop is None:
        return
    server = LiveServer(worker.live, parts.live_model, lost=RootGuard(layout.root).trouble)
    open_live_server(server, layout.live_socket(name), parts.loop)


def _place(plan: WorkerPlan) -> str:
    if plan.url is None:
        return "no GPU, no model server"
    where = "GPU " + ",".join(map(str, plan.gpus)) if plan.gpus else "no GPU"
    if plan.relay is not None:
        where += f" of {plan.node}"
    engine = "Ollama" if plan.engines[0] == OLLAMA else plan.engines[0]
    server = f"{engine} port {plan.port}" if plan.port else f"server {plan.url}"
    return f"{where}{' (simulated)' if plan.simulated else ''}, {server}"
