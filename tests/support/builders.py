"""Builders that read like sentences: ``a_snapshot(workers=[a_worker("worker-1")], lanes=[llm_waiting(125, "m")])``.

Every argument has a harmless default; ages are seconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from swarm.core.gpu_reading import GpuReading
from swarm.core.lanes import Pauses, llm_lane, resource_lane
from swarm.core.placement.demand import load_id
from swarm.core.snapshot import BlockedView, ClaimView, DropIn, LaneView, LiveView, ResourceTask, SwarmSnapshot, WorkerView
from swarm.core.task import TaskClass, canonical_model
from swarm.core.worker import (
    Heartbeat,
    LivePlaces,
    ModelTally,
    ProcessIdentity,
    SlotView,
    TunedSlots,
    WorkerRow,
    WorkerStatus,
    WorkerTally,
)

NOON = "2026-02-07T12:00:00.000+01:00"
MODEL = "llama3.2:3b"


def a_row(
    name: str, *, epoch: int = 1, slots: int = 1, with_server: bool = True, pid: int = 4242, gpu: int = 0, node: str = ""
) -> WorkerRow:
    """A registry row of a worker with one card."""
    return WorkerRow(
        name=name,
        process=ProcessIdentity(pid=pid, start_ticks=1, boot_id="boot"),
        started_at=NOON,
        epoch=epoch,
        gpus=(gpu,) if with_server else (),
        gpu_uuids=(f"GPU-{gpu}",) if with_server else (),
        url="http://127.0.0.1:11435" if with_server else None,
        llm_slots=slots,
        node=node,
    )


def a_heartbeat(
    name: str,
    *,
    holding: str | None = None,
    status: WorkerStatus = WorkerStatus.IDLE,
    reason: str = "",
    epoch: int = 1,
    seq: int = 1,
    turn: int = 1,
    resource_seq: int = 0,
    slots: Sequence[SlotView] = (),
    learned: dict[str, ModelTally] | None = None,
    refused: dict[str, str] | None = None,
    cleared: dict[str, int] | None = None,
    tuned: dict[str, TunedSlots] | None = None,
    completed: int = 0,
    live: LivePlaces | None = None,
    servable: Sequence[str] = (),
) -> Heartbeat:
    """A heartbeat of a worker that holds ``holding`` (None: cold)."""
    return Heartbeat(
        name=name,
        pid=4242,
        epoch=epoch,
        seq=seq,
        turn=turn,
        written_at=NOON,
        status=status,
        reason=reason,
        model=canonical_model(holding) if holding else None,
        resource_seq=resource_seq,
        slots=tuple(slots),
        models=learned or {},
        refused=refused or {},
        cleared=cleared or {},
        tuned=tuned or {},
        tally=WorkerTally(completed=completed),
        live=live,
        servable=tuple(servable),
    )


def a_worker(
    name: str = "worker-1",
    *,
    holding: str | None = None,
    status: WorkerStatus = WorkerStatus.IDLE,
    reason: str = "",
    alive: bool = True,
    beating: bool = True,
    slots: int = 1,
    epoch: int = 1,
    resource_seq: int = 0,
    with_server: bool = True,
    quiet_s: float = 0.0,
    turn_quiet_s: float = 0.0,
    held_s: float = 1000.0,
    claims: int = 0,
    learned: dict[str, ModelTally] | None = None,
    load_failed_s: dict[str, float] | None = None,
    refused: dict[str, str] | None = None,
    cleared: dict[str, int] | None = None,
    tuned: dict[str, TunedSlots] | None = None,
    completed: int = 0,
    gpu: int = 0,
    live: LivePlaces | None = None,
    node: str = "",
    servable: Sequence[str] = (),
) -> WorkerView:
    """A living, ready, cold worker unless told otherwise."""
    heartbeat = a_heartbeat(
        name,
        holding=holding,
        status=status,
        reason=reason,
        epoch=epoch,
        resource_seq=resource_seq,
        learned=learned,
        refused=refused,
        cleared=cleared,
        tuned=tuned,
        completed=completed,
        live=live,
        servable=servable,
    )
    return WorkerView(
        name=name,
        alive=alive,
        row=a_row(name, epoch=epoch, slots=slots, with_server=with_server, gpu=gpu, node=node),
        heartbeat=heartbeat if beating else None,
        quiet_s=quiet_s,
        turn_quiet_s=turn_quiet_s,
        held_s=held_s,
        claims=claims,
        load_failed_s=load_failed_s or {},
    )


def cold_workers(count: int, *, slots: int = 1) -> tuple[WorkerView, ...]:
    """``worker-1`` to ``worker-<count>``, none with a model."""
    return tuple(a_worker(f"worker-{n}", slots=slots, gpu=n - 1) for n in range(1, count + 1))


def llm_waiting(count: int, model: str = MODEL, *, unserved_s: float = 0.0, wait_s: float = 0.0) -> LaneView:
    """``count`` llm tasks waiting for ``model``."""
    return LaneView(
        lane=llm_lane(model),
        task_class=TaskClass.LLM,
        model=canonical_model(model),
        pending=count,
        unserved_s=unserved_s,
        oldest_wait_s=wait_s,
    )


def live_waiting(
    waiting: int = 1,
    model: str = MODEL,
    *,
    in_flight: int = 0,
    oldest_s: float = 0.0,
    idle_s: float = 0.0,
    wanted_s: float = 0.0,
) -> LiveView:
    """Live requests that wait for ``model``; with none in flight either, its last one ended ``idle_s`` ago."""
    return LiveView(
        model=canonical_model(model),
        waiting=waiting,
        in_flight=in_flight,
        oldest_s=oldest_s,
        idle_s=idle_s,
        wanted_s=wanted_s,
    )


def cpu_waiting(count: int, task_class: TaskClass = TaskClass.CPU) -> LaneView:
    """``count`` cpu (or script) tasks waiting."""
    return LaneView(lane=str(task_class), task_class=task_class, pending=count)


def a_load(worker: str, model: str = MODEL, *, epoch: int = 1, resource_seq: int = 0, live: bool = False) -> ResourceTask:
    """A load that the brain made for this life of a worker."""
    task_id = load_id(worker, canonical_model(model), epoch=epoch, resource_seq=resource_seq, live=live)
    return ResourceTask(task_id=task_id, worker=worker, model=canonical_model(model), epoch=epoch, live=live)


def resource_waiting(worker: str, *tasks: str | ResourceTask, wait_s: float = 0.0) -> LaneView:
    """Resource tasks waiting for one worker; those named by their ids alone are people's."""
    waiting = (ResourceTask(task_id=task, worker=worker) if isinstance(task, str) else task for task in tasks)
    return LaneView(
        lane=resource_lane(worker),
        task_class=TaskClass.RESOURCE,
        target_worker=worker,
        pending=len(tasks),
        oldest_wait_s=wait_s,
        resource_tasks=tuple(waiting),
    )


def load_waiting(worker: str, model: str = MODEL, *, wait_s: float = 0.0, live: bool = False) -> LaneView:
    """The brain's load task for one worker, not yet claimed."""
    return resource_waiting(worker, a_load(worker, model, live=live), wait_s=wait_s)


def load_claimed(worker: str = "worker-1", model: str = MODEL, *, resource_seq: int = 0) -> ClaimView:
    """The same, claimed by its worker."""
    task_id = a_load(worker, model, resource_seq=resource_seq).task_id
    return a_claim(task_id, worker=worker, model=model, task_class=TaskClass.RESOURCE)


def load_blocked(worker: str = "worker-1", *, due_in_s: float = 5.0) -> BlockedView:
    """The same, to be tried again later."""
    load = a_load(worker)
    return BlockedView(task_id=load.task_id, attempt=1, due_in_s=due_in_s, resource=load)


def a_claim(
    task_id: str = "t1",
    *,
    worker: str = "worker-1",
    model: str | None = MODEL,
    task_class: str | None = "llm",
    quiet_s: float = 0.0,
    elapsed_s: float = 0.0,
    name: str = "",
) -> ClaimView:
    """A task in flight."""
    return ClaimView(
        task_id=task_id,
        attempt=1,
        worker=worker,
        task_class=task_class,
        name=name,
        model=canonical_model(model) if model else None,
        quiet_s=quiet_s,
        elapsed_s=elapsed_s,
    )


def a_card(index: int = 0, *, total_mib: int | None = 24576, fault: str | None = None) -> GpuReading:
    """A reading of the card that ``a_worker(gpu=index)`` owns."""
    return GpuReading(index=index, uuid=f"GPU-{index}", name="Test", memory_total_mib=total_mib, fault=fault)


def a_snapshot(
    *,
    workers: Iterable[WorkerView] = (),
    lanes: Iterable[LaneView] = (),
    claims: Iterable[ClaimView] = (),
    blocked: Iterable[BlockedView] = (),
    drop_ins: Iterable[DropIn] = (),
    gpus: Iterable[GpuReading] = (),
    grace: bool = False,
    live: Iterable[LiveView] = (),
    pauses: Pauses | None = None,
) -> SwarmSnapshot:
    """A picture of the swarm at noon."""
    return SwarmSnapshot(
        now_iso=NOON,
        mono_s=1000.0,
        grace=grace,
        workers=tuple(workers),
        lanes=tuple(lanes),
        claims=tuple(claims),
        blocked=tuple(blocked),
        drop_ins=tuple(drop_ins),
        gpus=tuple(gpus),
        live=tuple(live),
        pauses=pauses or Pauses(),
    )
