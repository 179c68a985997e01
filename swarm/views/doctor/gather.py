"""Gathers the evidence for ``swarm doctor``.

Reads this machine, registrations, locks, logs and servers; changes nothing.
"""

from __future__ import annotations

import os
import resource
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from swarm import __version__
from swarm.config.settings import Settings
from swarm.core.doctor.evidence import BoxEvidence, QuarantineEvidence, ServerEvidence
from swarm.core.faults import TaskFault
from swarm.core.gpu_reading import GpuReading
from swarm.core.health.visible_gpus import Visibility
from swarm.core.models.engines import OLLAMA
from swarm.core.placement.worker_plan import WorkerPlan, plan_workers
from swarm.core.snapshot import SwarmSnapshot
from swarm.core.task import canonical_model
from swarm.engines.ollama import quarantine
from swarm.engines.ollama.server import client_of, server_proof
from swarm.errors import ConfigError, SwarmError
from swarm.proc.identity import is_same
from swarm.proc.ports import is_free
from swarm.queue.layout import Layout
from swarm.runtime.cards import gpu_reader
from swarm.runtime.open import open_observer
from swarm.supervisor.state import SupervisorStatus, load_plan, load_status
from swarm.supervisor.what_runs import orphans
from swarm.views.doctor.engine_evidence import engine_evidence, engine_server, file_evidence
from swarm.views.doctor.host_evidence import (
    able,
    boxed_kills,
    disk_evidence,
    kernel_kills,
    newer_than_now,
    open_programs,
    root_trouble,
    way_trouble,
)
from swarm.views.doctor.process_evidence import process_evidence, readable
from swarm.views.doctor.relay_evidence import node_evidence

_Ask = Callable[..., ServerEvidence]
ASK_S = 3.0
"""Longest wait for one model server."""


def gather(settings: Settings, *, simulate: int | None = None) -> BoxEvidence:
    """Gather all evidence. Takes as long as the slowest model server, ``ASK_S`` at most."""
    root = Path(settings.queue.root)
    layout, now_s = Layout(str(root)), time.time()
    trouble, mend = root_trouble(root), ""
    disk = disk_evidence(root)
    checks = able(root, disk.path, full=settings.queue.durability == "full")
    if not trouble:
        trouble, mend = way_trouble(root)
    status = load_status(root / "workers") if not trouble else None
    simulate = simulate or _simulated_before(root, status)
    snapshot, look_trouble = (None, "") if trouble else _snapshot(settings)
    reader = gpu_reader(settings, simulate)
    cards = readable((), reader.read)  # simulated ones lie under the root
    plan, plan_trouble = _plan(settings, root, cards, simulate, reader.visibility)
    simulated = bool(simulate) or any(p.simulated for p in plan)
    wants_binary = not simulated and _wants_ollama(settings, plan)
    clock_ahead = newer_than_now(layout, now_s)
    names = {view.name for view in snapshot.workers} | {p.name for p in plan} if snapshot is not None else set()
    processes = tuple(process_evidence(layout, names, status, now_s, trust_clock=clock_ahead is None))
    far = tuple(card for card in snapshot.gpus if card.node) if snapshot is not None else ()
    return BoxEvidence(
        root=str(root),
        root_exists=os.path.isdir(root),
        root_trouble=trouble,
        root_mend=mend,
        checks=checks,
        look_trouble=look_trouble,
        snapshot=snapshot,
        disk=disk,
        open_files=resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        clock_ahead=clock_ahead,
        simulated=simulated,
        plan=plan,
        plan_trouble=plan_trouble,
        binary=settings.ollama.binary,
        binary_found=not wants_binary or shutil.which(settings.ollama.binary) is not None,
        engines=engine_evidence(settings, plan),
        model_files=() if simulated else tuple(file_evidence(settings)),
        open_programs=tuple(open_programs(settings, serves=wants_binary)),
        cards=(*(card for card in cards if card.uuid not in {one.uuid for one in far}), *far),
        cards_note=reader.visibility.note,
        cards_trouble=reader.unavailable or "",
        supervisor_phase=status.phase if status is not None else "",
        orphans=0 if trouble else len(readable((), orphans, settings)),
        processes=processes,
        version=__version__,
        nodes=() if trouble else node_evidence(settings, plan, {p.name for p in processes if p.alive}, now_s),
        servers=_servers(plan, status, root, settings),
        quarantines=() if trouble else _quarantines(root / "workers"),
        kernel_kills=kernel_kills(),
        cgroup_kills=boxed_kills(),
    )


def _wants_ollama(settings: Settings, plan: tuple[WorkerPlan, ...]) -> bool:
    """Whether a server of it is to run on this machine. With Ray all may run elsewhere."""
    if plan:
        return any(p.owns_server for p in plan)
    return settings.llm.engine == OLLAMA and settings.ray.address is None


def _simulated_before(root: Path, status: SupervisorStatus | None) -> int | None:
    """The number of simulated cards of the swarm that ended here; a running one is known by its plan."""
    if status is None or not status.simulated or load_plan(root / "workers") is not None:
        return None
    servers = sum(1 for child in status.children if child.role == "server")  # a worker may be for a card elsewhere
    return servers or sum(1 for child in status.children if child.role == "worker") or None


def _snapshot(settings: Settings) -> tuple[SwarmSnapshot | None, str]:
    try:
        return open_observer(settings).snapshot(), ""
    except (SwarmError, OSError) as error:
        return None, str(error)


def _plan(
    settings: Settings,
    root: Path,
    cards: tuple[GpuReading, ...],
    simulate: int | None,
    visibility: Visibility,
) -> tuple[tuple[WorkerPlan, ...], str]:
    """The plan of the running swarm, else the one that a start would make."""
    plan = load_plan(root / "workers") if not simulate else None
    if plan is not None:
        return plan, ""
    try:
        return plan_workers(settings, cards, simulate=simulate, visibility=visibility), ""
    except ConfigError as error:
        return (), error.message


def _quarantines(workers: Path) -> tuple[QuarantineEvidence, ...]:
    return tuple(
        QuarantineEvidence(
            worker=note.worker,
            reason=note.reason,
            left_s=note.left_s,
            path=str(quarantine.quarantine_path(workers, note.worker)),
        )
        for note in quarantine.all_of(workers)
    )


def _servers(
    plan: tuple[WorkerPlan, ...], status: SupervisorStatus | None, root: Path, settings: Settings
) -> tuple[ServerEvidence, ...]:
    """Each server asked, all at once. Before a start our own are not asked; only whether their ports are free."""
    running = status is not None and is_same(status.process)
    with_server = [p for p in plan if p.url is not None]
    asked: list[tuple[WorkerPlan, _Ask]] = [(p, _ollama_server) for p in with_server if p.ollama_url is not None]
    asked += [(p, engine_server) for p in with_server if p.engines != (OLLAMA,) and p.relay is None]
    with ThreadPoolExecutor(max(1, len(asked))) as pool:
        return tuple(pool.map(lambda one: one[1](one[0], root, settings, ask=running or one[0].adopted), asked))


def _ollama_server(plan: WorkerPlan, root: Path, _settings: Settings, *, ask: bool) -> ServerEvidence:
    assert plan.url is not None
    holder = _port_holder(plan, root, running=ask)
    error, installed = _ask(plan, root) if ask and not holder else ("", None)
    return ServerEvidence(
        worker=plan.name,
        url=plan.url,
        adopted=plan.adopted,
        error=error,
        installed=installed,
        port=None if plan.adopted else plan.port,
        port_holder=holder,
    )


def _port_holder(plan: WorkerPlan, root: Path, *, running: bool) -> str:
    """Who has the port of a server of ours, if it is none of ours. Simulated servers give way before a start."""
    if plan.adopted or plan.port is None or (plan.simulated and not running) or is_free("127.0.0.1", plan.port):
        return ""
    return server_proof(plan.name, root).stranger_on(plan.port)


def _ask(plan: WorkerPlan, root: Path) -> tuple[str, tuple[str, ...] | None]:
    assert plan.url is not None
    try:
        with client_of(plan.name, plan.url, root=root, adopted=plan.adopted) as client:
            client.version(ASK_S)
            return "", tuple(sorted(canonical_model(model.name) for model in client.tags(ASK_S)))
    except (TaskFault, SwarmError) as fault:
        return str(getattr(fault, "message", fault)), None


def names_of(evidence: BoxEvidence) -> tuple[str, ...]:
    """Names that ``swarm doctor`` accepts."""
    return tuple(sorted({p.name for p in evidence.processes if p.role == "worker"} | {p.name for p in evidence.plan}))
