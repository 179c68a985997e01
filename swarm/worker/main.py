"""One worker process."""

from __future__ import annotations

import logging
import os
import random

import msgspec

from swarm.clock import SystemClock
from swarm.core.placement.worker_plan import HOST, WorkerPlan, plan_workers
from swarm.core.task import TaskClass
from swarm.core.worker import WorkerRow
from swarm.errors import ConfigError, EngineError, name_hint
from swarm.ollama.server import find_binary
from swarm.ollama.server_spec import server_spec
from swarm.proc.ports import is_free
from swarm.queue.file_queue import FileQueue
from swarm.queue.layout import Layout
from swarm.queue.storage.locks import is_held
from swarm.queue.storage.wakeup import FileBell
from swarm.queue.worker.orphans import take_back
from swarm.queue.worker.worker_queue import WorkerFileQueue
from swarm.runtime.bootstrap import (
    RunOptions,
    check_host,
    living,
    logging_as,
    open_root,
    own_row,
    root_watch,
)
from swarm.runtime.cards import visible_reader
from swarm.runtime.loop import StopWish, install, run_loop
from swarm.runtime.open import crash_rule
from swarm.runtime.ports import Executor
from swarm.supervisor.state import HOST_PREFIX, load_plan
from swarm.supervisor.state import NAME as SUPERVISOR
from swarm.supervisor.what_runs import end_remains
from swarm.worker.clients import client_of
from swarm.worker.config import WorkerPorts, worker_config
from swarm.worker.executors.command import CommandExecutor
from swarm.worker.gpu_health import CardWatch
from swarm.worker.heartbeat import HeartbeatThread, WorkerState
from swarm.worker.known_good import Prober
from swarm.worker.model_worker import served_parts
from swarm.worker.server_health import ServerProbe
from swarm.worker.worker import Worker


def run_worker(options: RunOptions, name: str) -> int:
    """Be this worker until told to stop; returns the exit status. Raises ``LockHeld``, ``ConfigError``, ``EngineError``."""
    check_host()
    plan = own_plan(options, name)
    queue, instead = open_root(options)
    root_trouble = root_watch(queue.layout.root)
    _refuse_without_server(plan, options, queue.layout)
    with living(queue, _row(plan, options)) as row, logging_as(name, options) as log:
        for check in instead:
            log.info("Fallback: %s", check)
        taken_back = _take_back_own(queue, options, name, log)
        bell = queue.bell()
        wish = StopWish(bell.wake_self)
        install(wish)
        state = WorkerState(name=name, pid=os.getpid(), epoch=row.epoch, clock=SystemClock())
        state.count(crashes=taken_back)
        beats = HeartbeatThread(
            beat_of=state.heartbeat,
            sink=queue.heartbeats(),
            clock=SystemClock(),
            period_s=options.settings.worker.heartbeat_s,
            log=log,
        )
        beats.start()
        view = queue.worker_view(name)
        worker = _worker(queue, view, options, plan, bell, beats, state, wish, log)
        try:
            return run_loop(worker, wait=bell.wait, log=log, lost=root_trouble)
        finally:
            bell.close()


def own_plan(options: RunOptions, name: str) -> WorkerPlan:
    """From the supervisor's plan; started alone, from the configuration and the cards there are."""
    plans = load_plan(options.root / "workers")
    if plans is None or not any(p.name == name for p in plans):
        reader = visible_reader(options.settings)
        cards = () if options.simulate else reader.read()
        plans = plan_workers(options.settings, cards, simulate=options.simulate, visibility=reader.visibility)
    found = next((p for p in plans if p.name == name), None)
    if found is None:
        names = [p.name for p in plans]
        raise ConfigError(f"no worker is called {name}", hint=name_hint(name, names))
    return found


def _refuse_without_server(plan: WorkerPlan, options: RunOptions, layout: Layout) -> None:
    """Started alone, where nobody serves its models and there is no program that could. Raises ``ConfigError``."""
    kept = is_held(layout, SUPERVISOR) or is_held(layout, f"{HOST_PREFIX}{plan.name}")
    if plan.owns_server and plan.port is not None and not kept and is_free(HOST, plan.port):
        find_binary(server_spec(plan, options.settings, root=options.root, base_env=os.environ))


def _row(plan: WorkerPlan, options: RunOptions) -> WorkerRow:
    return msgspec.structs.replace(
        own_row(plan.name, "worker"),
        gpus=plan.gpus,
        gpu_uuids=plan.gpu_uuids,
        port=plan.port,
        url=plan.url,
        adopted=plan.adopted,
        simulated=plan.simulated,
        llm_slots=options.settings.llm.slots,
    )


def _take_back_own(queue: FileQueue, options: RunOptions, name: str, log: logging.Logger) -> int:
    """What an earlier life of this name held is given back before anything is claimed, also without a brain. How many.

    Raises ``EngineError`` while a program of it cannot be killed: under the process lock of a worker that goes on, nobody
    could give its tasks back later.
    """
    stuck = end_remains(str(options.root), name)
    if stuck:
        raise EngineError(
            f"{name}: what its tasks left running cannot be killed: {stuck}",
            hint="state D is stuck in the kernel: see `dmesg`; start it again once that has ended (`swarm up` does)",
        )
    lines = take_back(queue.layout, queue.storage, name, crash_rule(options.settings.retry))
    for line in lines:
        log.warning("%s", line)
    queue.ring()
    return len(lines)


def _worker(
    queue: FileQueue,
    view: WorkerFileQueue,
    options: RunOptions,
    plan: WorkerPlan,
    bell: FileBell,
    beats: HeartbeatThread,
    state: WorkerState,
    wish: StopWish,
    log: logging.Logger,
) -> Worker:
    settings = options.settings
    command = CommandExecutor(
        settings.command, scripts=settings.scripts, root=str(options.root), work_dir=queue.layout.work_of(plan.name)
    )
    executors: dict[TaskClass, Executor] = {TaskClass.CPU: command, TaskClass.SCRIPT: command}
    probe: ServerProbe | None = None
    cards: CardWatch | None = None
    prober: Prober | None = None
    if plan.url is not None:
        served = served_parts(
            queue.layout, options, plan, client_of(plan.name, plan.url, root=options.root, adopted=plan.adopted), log
        )
        executors |= served.executors
        probe, prober, cards = served.probe, served.prober, served.cards
    ports = WorkerPorts(
        queue=view,
        bell=bell,
        clock=SystemClock(),
        executors=executors,
        probe=probe,
        beats=beats,
        jitter=random.random,
        log=log,
        cards=cards,
        prober=prober,
    )
    config = worker_config(settings, gpu=",".join(plan.gpu_uuids) or None, place=_place(plan))
    return Worker(ports, config, state, wish)


def _place(plan: WorkerPlan) -> str:
    if plan.url is None:
        return "no GPU, no model server"
    where = "GPU " + ",".join(map(str, plan.gpus)) if plan.gpus else "no GPU"
    server = f"Ollama port {plan.port}" if plan.port else f"server {plan.url}"
    return f"{where}{' (simulated)' if plan.simulated else ''}, {server}"
