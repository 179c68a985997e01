"""What a worker with a model server has beside the others: requests with repairs, its cards watched, its pin proven.

Results of earlier tasks, filled into a request when its task runs: the task's own body never changes.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from swarm.clock import SystemClock
from swarm.config.settings import LlmSettings
from swarm.core.claim import Claim
from swarm.core.faults import CancelToken, Progress, TaskFault
from swarm.core.placement.worker_plan import WorkerPlan
from swarm.core.task import Task, TaskClass, Trail, canonical_model
from swarm.core.workflow import templating
from swarm.core.workflow.templating import EarlierResults, ReadEnded, TemplateError
from swarm.formats.input.images import read_image
from swarm.ollama.client import OllamaClient
from swarm.ollama.repair_actions import ServerHands
from swarm.proc.env_markers import ROOT_MARKER, SERVER_MARKER, find_marked
from swarm.queue.layout import Layout
from swarm.queue.lookup import read_ended
from swarm.queue.storage.locks import is_held
from swarm.runtime.bootstrap import RunOptions
from swarm.runtime.cards import gpu_reader, machine_reader
from swarm.runtime.ports import Executor
from swarm.supervisor.state import HOST_PREFIX
from swarm.supervisor.state import NAME as SUPERVISOR
from swarm.worker.executors.llm import LlmExecutor
from swarm.worker.executors.load_model import ResourceExecutor
from swarm.worker.executors.response_cache import with_answers
from swarm.worker.gpu_health import CardWatch
from swarm.worker.gpu_pinning import PinnedProbe, PinProof
from swarm.worker.known_good import KnownGood, Prober
from swarm.worker.server_health import ModelServerProbe, ServerProbe
from swarm.worker.server_repair import RepairingServer


class WithResults:
    """Fits the ``Executor`` port: another executor, given requests that are filled in. Safe from several threads."""

    def __init__(self, inner: Executor, read: ReadEnded) -> None:
        self._inner = inner
        self._read = read

    def run(self, claim: Claim, *, cancel: CancelToken, progress: Progress) -> Trail:
        """Fill in, then run. Raises ``TaskFault``."""
        claim = msgspec.structs.replace(claim, task=self.filled(claim.task))
        return self._inner.run(claim, cancel=cancel, progress=progress)

    def filled(self, task: Task) -> Task:
        """The task with its request filled in; itself when it asks for nothing. Raises ``TaskFault`` (deterministic).

        Only what a task waits for can be asked for; a task that depends on nothing may have such texts in its prompt.
        """
        if not task.depends_on or not any(r.startswith("results.") for r in templating.references(task.request)):
            return task
        earlier = EarlierResults(task, self._read)
        try:
            request = templating.fill(task.request, earlier.answer)
        except TemplateError as error:
            raise TaskFault("deterministic", "result_unusable", str(error)) from error
        return msgspec.structs.replace(task, request=request)


@dataclass(frozen=True, kw_only=True)
class Served:
    """The parts."""

    executors: Mapping[TaskClass, Executor]
    probe: ServerProbe
    prober: Prober
    cards: CardWatch | None


def served_parts(layout: Layout, options: RunOptions, plan: WorkerPlan, client: OllamaClient, log: logging.Logger) -> Served:
    """The parts of this worker; its plan has a server URL."""
    settings = options.settings

    def kept() -> bool:
        return is_held(layout, SUPERVISOR) or is_held(layout, f"{HOST_PREFIX}{plan.name}")

    hands = ServerHands(plan.name, root=options.root, gpu_uuids=plan.gpu_uuids, limits=settings.repair, supervised=kept)
    server = RepairingServer(client, hands, settings.repair, log=log)
    limits = _limits(settings.llm, plan, log)
    probe: ServerProbe = ModelServerProbe(server, models=settings.models, on_cpu_spill=limits.on_cpu_spill)
    pin = _pin(options, plan, log)
    if pin is not None:
        probe = PinnedProbe(probe, pin)
    resource = ResourceExecutor(
        server,
        limits,
        models=settings.models,
        log=log,
        pin=pin,
        on_stuck=server.unload_stuck,
        memory_mib=plan.vram_mib,
        disk_mib=lambda model: _disk_mib(client, model),
    )
    asking = LlmExecutor(server, settings.llm, models=settings.models, read_image=read_image)
    answering = with_answers(asking, layout, settings, client, simulated=plan.simulated, log=log)
    llm = WithResults(answering, lambda task_id: read_ended(layout, task_id))
    return Served(
        executors={TaskClass.LLM: llm, TaskClass.RESOURCE: resource},
        probe=probe,
        prober=KnownGood(server, server.broke, models=settings.models),
        cards=_cards(options, plan, hands, log),
    )


def _disk_mib(client: OllamaClient, model: str) -> int:
    """Size of a model's file; 0 where the server does not say."""
    try:
        return next((m.size_mib for m in client.tags() if canonical_model(m.name) == model), 0)
    except TaskFault:
        return 0


def _limits(llm: LlmSettings, plan: WorkerPlan, log: logging.Logger) -> LlmSettings:
    """Where there is no card there is nothing to spill from: the CPU is where such a worker is meant to run."""
    if plan.gpu_uuids or plan.simulated or llm.on_cpu_spill != "refuse":
        return llm
    log.info("%s has no card: its models may run on the CPU", plan.name)
    return msgspec.structs.replace(llm, on_cpu_spill="allow")


def _cards(options: RunOptions, plan: WorkerPlan, hands: ServerHands, log: logging.Logger) -> CardWatch | None:
    if not plan.gpus:
        return None

    def lost(reason: str) -> None:
        log.error("Card quarantined: %s; %s", reason, hands.quarantine(reason))

    return CardWatch(
        gpu_reader(options.settings, max(plan.gpus) + 1) if plan.simulated else machine_reader(),
        uuids=plan.gpu_uuids,
        settings=options.settings.gpu,
        clock=SystemClock(),
        log=log,
        on_lost=lost,
    )


def _pin(options: RunOptions, plan: WorkerPlan, log: logging.Logger) -> PinProof | None:
    """Only for a server of ours on real cards: of a simulated one, or another's, nothing was promised."""
    if not plan.gpus or plan.simulated or not plan.owns_server:
        return None
    markers = {SERVER_MARKER: plan.name, ROOT_MARKER: str(options.root)}
    return PinProof(
        machine_reader(),
        uuids=plan.gpu_uuids,
        pids=lambda: {one.pid for one in find_marked(**markers)},
        log=log,
    )
