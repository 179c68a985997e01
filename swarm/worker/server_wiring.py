"""Puts together what a worker that has a model server has besides: repairs, probes, loads, requests, watched cards."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from functools import partial

import msgspec

from swarm.config.settings import LlmSettings, Settings
from swarm.core.placement.worker_plan import WorkerPlan
from swarm.core.task import TaskClass
from swarm.engines.engine_dispatch import WorkerServer
from swarm.engines.ollama.repair_actions import RepairActions
from swarm.engines.ollama.repairing_server import RepairingServer, Repairs
from swarm.engines.remote.remote_repair import RemoteRepair
from swarm.formats.input.images import read_image
from swarm.queue.coordination import is_held
from swarm.queue.layout import Layout
from swarm.queue.lookup import read_ended
from swarm.runtime.bootstrap import RunOptions
from swarm.runtime.cards import gpu_reader, machine_reader
from swarm.runtime.event_loop import EventLoop
from swarm.runtime.ports import GpuReader, SlotMemory
from swarm.supervisor.state import HOST_PREFIX
from swarm.supervisor.state import NAME as SUPERVISOR
from swarm.worker.executors.llm import LlmExecutor
from swarm.worker.executors.load_model import ResourceExecutor
from swarm.worker.executors.response_cache import ResponseCache, ResponseFiles
from swarm.worker.gpu_checks import CardWatch, PinProof
from swarm.worker.live.live_call import LiveModel
from swarm.worker.parts import WorkerParts
from swarm.worker.remote_wiring import RemoteCard
from swarm.worker.server_probe import ModelServerProbe, servable_models, size_on_disk_mib
from swarm.worker.tuning.slot_wiring import own_parallel, own_slots, slots_for_loads


def is_kept(layout: Layout, plan: WorkerPlan) -> bool:
    """Whether some process keeps its model server running."""
    return is_held(layout, SUPERVISOR) or is_held(layout, f"{HOST_PREFIX}{plan.name}")


def with_model_server(
    parts: WorkerParts,
    layout: Layout,
    options: RunOptions,
    plan: WorkerPlan,
    client: WorkerServer,
    loop: EventLoop,
    memory: SlotMemory | None = None,
    remote: RemoteCard | None = None,
) -> WorkerParts:
    """With what a worker that has a model server has besides: requests with repairs, its cards watched, its pin proven.

    ``remote``: where its card is in another machine.
    """
    settings, log = options.settings, parts.log
    actions, pids = _repairs(layout, options, plan, remote, log)
    reader = card_reader(options, plan) if remote is None else remote.judged
    parallel = own_parallel(options, plan, client, log, kept=lambda: is_kept(layout, plan))
    server = RepairingServer(client, actions, settings.repair, log=log, parallel=parallel)
    disk_mib = partial(size_on_disk_mib, client.tags)
    slots = own_slots(settings, plan, parallel) if remote is None else remote.slots
    load_slots = memory if memory is None else slots_for_loads(parts, options, plan, memory, slots, reader, disk_mib)
    limits = _limits(settings.llm, plan, log)
    pin = _pin(plan, reader, pids, log)
    probe = ModelServerProbe(
        server,
        loop,
        server.broke,
        models=settings.models,
        on_cpu_spill=limits.on_cpu_spill,
        pin=pin,
        ask_version=client.version,
        list_servable=partial(servable_models, client.tags, plan, settings, limits),
    )
    resource = ResourceExecutor(
        server,
        limits,
        models=settings.models,
        log=log,
        pin=pin,
        on_stuck=server.unload_stuck,
        memory_mib=plan.vram_mib,
        disk_mib=disk_mib,
        slots=load_slots,
    )
    files = ResponseFiles(layout, max_bytes=settings.llm.cache_mib << 20)
    cache = ResponseCache(files, client, simulated=plan.simulated, log=log)
    llm = _llm_executor(server, settings, layout, cache)
    return dataclasses.replace(
        parts,
        executors={**parts.executors, TaskClass.RESOURCE: resource},
        requests={TaskClass.LLM: llm},
        live_model=LiveModel(server, settings.llm, settings.models),
        pack_size=lambda: llm.pack_size,
        loop=loop,
        probe=probe,
        prober=probe,
        load_slots=load_slots,
        cards=_cards(options, plan, reader, actions, log),
    )


def _llm_executor(server: RepairingServer, settings: Settings, layout: Layout, cache: ResponseCache) -> LlmExecutor:
    return LlmExecutor(
        server,
        settings.llm,
        models=settings.models,
        read_image=read_image,
        read_ended=partial(read_ended, layout),
        cache=cache,
    )


def _limits(llm: LlmSettings, plan: WorkerPlan, log: logging.Logger) -> LlmSettings:
    """Where there is no card there is nothing to spill from: the CPU is where such a worker is meant to run."""
    if plan.gpu_uuids or plan.simulated or llm.on_cpu_spill != "refuse":
        return llm
    if not plan.adopted or plan.ollama_url is not None:
        log.info("%s has no card: its models may run on the CPU", plan.name)
    return msgspec.structs.replace(llm, on_cpu_spill="allow")


def _repairs(
    layout: Layout, options: RunOptions, plan: WorkerPlan, remote: RemoteCard | None, log: logging.Logger
) -> tuple[RepairActions | RemoteRepair, Callable[[], frozenset[int]]]:
    """What is done about its server, and the processes of that."""
    limits = options.settings.repair
    if remote is not None:
        there = RemoteRepair(remote.calls, plan.name, root=options.root, gpu_uuids=plan.gpu_uuids, limits=limits, log=log)
        return there, remote.cards.pids
    here = RepairActions(
        plan.name,
        root=options.root,
        gpu_uuids=plan.gpu_uuids,
        limits=limits,
        supervised=lambda: is_kept(layout, plan),
    )
    return here, here.pids


def _cards(
    options: RunOptions, plan: WorkerPlan, reader: GpuReader, actions: Repairs, log: logging.Logger
) -> CardWatch | None:
    if not plan.gpus:
        return None

    def lost(reason: str) -> None:
        log.error("Card quarantined: %s; %s", reason, actions.quarantine(reason))

    return CardWatch(
        reader,
        uuids=plan.gpu_uuids,
        settings=options.settings.gpu,
        log=log,
        on_lost=lost,
    )


def card_reader(options: RunOptions, plan: WorkerPlan) -> GpuReader:
    """What reads its cards."""
    return gpu_reader(options.settings, max(plan.gpus) + 1) if plan.simulated and plan.gpus else machine_reader()


def _pin(plan: WorkerPlan, reader: GpuReader, pids: Callable[[], frozenset[int]], log: logging.Logger) -> PinProof | None:
    """Only for a server of ours on real cards: of a simulated one, or another's, nothing was promised."""
    if not plan.gpus or plan.simulated or plan.adopted:
        return None
    return PinProof(reader, uuids=plan.gpu_uuids, pids=pids, log=log)
