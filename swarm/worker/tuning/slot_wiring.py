"""Puts together what chooses the slots of a worker's loads: memory of its cards, its server's number, its records."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import NamedTuple

import psutil

from swarm.config.settings import Settings
from swarm.core.faults import TaskFault
from swarm.core.lanes import llm_lane
from swarm.core.models.engines import OLLAMA, engine_of_model
from swarm.core.placement.worker_plan import WorkerPlan
from swarm.engines.engine_dispatch import WorkerServer
from swarm.engines.ollama.parallel import ParallelSlots, fixed_parallel, note_path
from swarm.engines.ollama.server import running_server
from swarm.errors import StorageFault
from swarm.proc.env_markers import ROOT_MARKER, SERVER_MARKER
from swarm.runtime.bootstrap import RunOptions
from swarm.runtime.ports import GpuReader, SlotMemory
from swarm.supervisor import restarts
from swarm.worker.gpu_checks import free_memory_mib
from swarm.worker.parts import WorkerParts
from swarm.worker.server_probe import LOOK_TIMEOUT_S
from swarm.worker.tuning.load_slots import LoadSlots


class ServerSlots(NamedTuple):
    """Of a worker's Ollama server."""

    fixed: int
    """The number that a configuration sets for it; 0: none does."""
    running: Callable[[], int]
    """What it was started for; 0: not known, or it takes any number with each load."""


def own_slots(settings: Settings, plan: WorkerPlan, parallel: ParallelSlots | None) -> ServerSlots:
    """Of a server on this machine."""
    fixed = fixed_parallel(settings) if plan.owns_server else 0
    return ServerSlots(fixed, lambda: parallel.slots if parallel is not None else 0)


def slots_for_loads(
    parts: WorkerParts,
    options: RunOptions,
    plan: WorkerPlan,
    memory: SlotMemory,
    server: ServerSlots,
    reader: GpuReader,
    weights_mib: Callable[[str], int],
) -> LoadSlots:
    """What chooses for how many requests at once this worker loads a model.

    ``server``: what its Ollama server runs for. ``reader`` reads its cards; ``weights_mib``: size of a model's file.
    """
    settings = options.settings

    def waiting(model: str) -> int:
        try:
            return parts.queue.waiting().get(llm_lane(model), 0)
        except StorageFault:
            return 0

    return LoadSlots(
        settings.llm,
        models=settings.models,
        memory=memory,
        card=",".join(plan.gpu_uuids) or plan.url or "cpu",
        engine_of=lambda model: engine_of_model(settings, model, plan.engines[0]),
        fixed=server.fixed,
        chosen=not plan.adopted,
        free_mib=lambda: free_memory_mib(reader, plan.gpu_uuids, plan.vram_mib) if plan.gpus else 0,
        host_mib=lambda: psutil.virtual_memory().available >> 20 if plan.relay is None else None,
        weights_mib=weights_mib,
        running=server.running,
        waiting=waiting,
    )


def own_parallel(
    options: RunOptions, plan: WorkerPlan, client: WorkerServer, log: logging.Logger, *, kept: Callable[[], bool]
) -> ParallelSlots | None:
    """Of a server that swarm starts, unless the configuration sets its number. ``kept``: somebody would start it again."""
    if not plan.owns_server or fixed_parallel(options.settings):
        return None
    root, name = options.root, f"ollama-{plan.name}"
    markers = {SERVER_MARKER: plan.name, ROOT_MARKER: str(root)}

    def running() -> tuple[int, int]:
        note = running_server(root / "workers" / f"{plan.name}.server.json", markers)
        return (0, 0) if note is None else (note.process.pid, note.slots)

    def ready() -> bool:
        try:
            client.ps(LOOK_TIMEOUT_S)
        except TaskFault:
            return False
        return True

    def request() -> bool:
        if not kept():
            return False
        try:
            restarts.request_restart(root, name, now=True)
        except OSError as error:
            log.warning("the restart of %s cannot be asked for: %s", name, error.strerror)
            return False
        return True

    return ParallelSlots(
        note_path(root / "workers", plan.name),
        serves=lambda model: engine_of_model(options.settings, model, plan.engines[0]) == OLLAMA,
        running=running,
        ready=ready,
        request_restart=request,
        restart_taken=lambda: restarts.is_taken(root, name),
        withdraw=lambda: restarts.withdraw(root, name),
        start_timeout_s=options.settings.ollama.start_timeout_s,
        log=log,
    )
